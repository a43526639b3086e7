/* Sums of products with packed weights: indices of 3, 4 or 5 bits into a table of a layer's values. A part of kws_nn.c.
 *
 * kws/board/packing.py writes this layout, with half = ceil(inputs / 2). Inputs `at` and `at + half` make a pair, and
 * so do their weights in a row: two indices, the first in the lower bits. The pairs `at` of four rows make a group of
 * 24, 32 or 40 bits, the first row's pair lowest. Its lower bits are words[at]: 16 bits if indices have 3 bits, else
 * 32. The other 8 bits are tops[at]; indices of 4 bits need none. A table of all pairs of values gives SMLAD its
 * operand at once, and 16 pairs beside each other are the lanes of a vector. */

/* prepare() runs once for a layer: it makes the table of values, and arranges inputs as the processor takes them. */
#if defined(KWS_HELIUM)

#define VECTOR 16 /* lanes */

/* The table has a value for each byte, so that lanes may hold other bits above an index. With indices of 4 bits, a
 * second table is for the index in the upper half of a byte. */
static void prepare(kws_work *work, const kws_layer *layer, const int8_t *input) {
    const int half = (layer->inputs + 1) / 2, rest = layer->inputs - half;
    const uint8x16_t lanes = vidupq_n_u8(0, 1), mask = vdupq_n_u8((uint8_t)((1 << layer->packed->bits) - 1));
    int8_t *table = work->layers.values, *inputs = work->layers.inputs;
    for (int i = 0; i < 256; i += VECTOR) {
        const uint8x16_t byte = vaddq_n_u8(lanes, (uint8_t)i);
        vstrbq_s8(table + i, vldrbq_gather_offset_s8(layer->packed->values, vandq_u8(byte, mask)));
#if KWS_INDICES_4
        vstrbq_s8(table + 256 + i, vldrbq_gather_offset_s8(layer->packed->values, vandq_u8(vshrq_n_u8(byte, 4), mask)));
#endif
    }
    for (int i = 0; i < half; i += VECTOR, inputs += 2 * VECTOR) { /* inputs beyond the end count as 0 */
        vstrbq_s8(inputs, vldrbq_z_s8(input + i, vctp8q((uint32_t)(half - i))));
        vstrbq_s8(inputs + VECTOR, vldrbq_z_s8(input + half + i, vctp8q((uint32_t)(rest > i ? rest - i : 0))));
    }
}

/* ADD_PRODUCTS defines a function that adds to sums the products of inputs with four rows: 16 pairs of inputs at a time
 * in q5 and q6, bytes of words in q0 to q3, tops in q4. It is assembler, as compilers move vectors that vld4 loads to
 * memory and back, and not inlined, so that there are enough registers. */
#define ADD_PRODUCTS(name, loads, sums_of_products)                                                                   \
    __attribute__((noinline)) static void name(kws_work *work, const void *words, const uint8_t *tops, int half,      \
                                               int32_t sums[ROWS]) {                                                  \
        const int8_t *inputs = work->layers.inputs, *table = work->layers.values;                                     \
        int32_t one = sums[0], two = sums[1], three = sums[2], four = sums[3];                                        \
        __asm volatile("dls lr, %[count]\n"                                                                           \
                       "1:\n\t" loads                                                                                 \
                       "vldrb.8 q5, [%[inputs]], #16\n\t"                                                             \
                       "vldrb.8 q6, [%[inputs]], #16\n\t" sums_of_products                                            \
                       "le lr, 1b"                                                                                    \
                       : [one] "+&Te"(one), [two] "+&Te"(two), [three] "+&Te"(three), [four] "+&Te"(four),            \
                         [words] "+&r"(words), [tops] "+&r"(tops), [inputs] "+&r"(inputs)                             \
                       : [table] "r"(table), [high] "r"(table + 256), [count] "r"((half + VECTOR - 1) / VECTOR)       \
                       : "lr", "q0", "q1", "q2", "q3", "q4", "q5", "q6", "q7", "memory");                             \
        sums[0] = one, sums[1] = two, sums[2] = three, sums[3] = four;                                                \
    }
#define LOAD_2                                  \
    "vld20.8 {q0, q1}, [%[words]]\n\t"          \
    "vld21.8 {q0, q1}, [%[words]]!\n\t"
#define LOAD_4                                  \
    "vld40.8 {q0, q1, q2, q3}, [%[words]]\n\t"  \
    "vld41.8 {q0, q1, q2, q3}, [%[words]]\n\t"  \
    "vld42.8 {q0, q1, q2, q3}, [%[words]]\n\t"  \
    "vld43.8 {q0, q1, q2, q3}, [%[words]]!\n\t"
#define LOAD_TOPS "vldrb.8 q4, [%[tops]], #16\n\t"
#define ADD(row, inputs, table, indices)                   \
    "vldrb.u8 q7, [%[" table "], " indices "]\n\t"         \
    "vmladava.s8 %[" row "], " inputs ", q7\n\t"
#define ADD_SHIFTED(row, inputs, from, bits)               \
    "vshr.u8 q0, " from ", #" bits "\n\t"                  \
    ADD(row, inputs, "table", "q0")
/* An index across two bytes: its lower bits are the highest of `low`, its upper bits the lowest of `high`. */
#define ADD_JOINED(row, inputs, high, left, low, right)    \
    "vshl.i8 q7, " high ", #" left "\n\t"                  \
    "vsri.8 q7, " low ", #" right "\n\t"                   \
    "vldrb.u8 q0, [%[table], q7]\n\t"                      \
    "vmladava.s8 %[" row "], " inputs ", q0\n\t"

#if KWS_INDICES_3
ADD_PRODUCTS(add_products_3, LOAD_2 LOAD_TOPS,
    ADD("one", "q5", "table", "q0")
    "vshr.u8 q2, q0, #3\n\t"
    ADD("one", "q6", "table", "q2")
    ADD_JOINED("two", "q5", "q1", "2", "q0", "6")
    ADD_SHIFTED("two", "q6", "q1", "1")
    ADD_SHIFTED("three", "q5", "q1", "4")
    ADD_JOINED("three", "q6", "q4", "1", "q1", "7")
    ADD_SHIFTED("four", "q5", "q4", "2")
    ADD_SHIFTED("four", "q6", "q4", "5"))
#endif
#if KWS_INDICES_4
ADD_PRODUCTS(add_products_4, LOAD_4,
    ADD("one", "q5", "table", "q0")
    ADD("one", "q6", "high", "q0")
    ADD("two", "q5", "table", "q1")
    ADD("two", "q6", "high", "q1")
    ADD("three", "q5", "table", "q2")
    ADD("three", "q6", "high", "q2")
    ADD("four", "q5", "table", "q3")
    ADD("four", "q6", "high", "q3"))
#endif
#if KWS_INDICES_5
ADD_PRODUCTS(add_products_5, LOAD_4 LOAD_TOPS,
    ADD("one", "q5", "table", "q0")
    ADD_JOINED("one", "q6", "q1", "3", "q0", "5")
    ADD_SHIFTED("two", "q5", "q1", "2")
    ADD_JOINED("two", "q6", "q2", "1", "q1", "7")
    ADD_JOINED("three", "q5", "q3", "4", "q2", "4")
    ADD_SHIFTED("three", "q6", "q3", "1")
    ADD_JOINED("four", "q5", "q4", "2", "q3", "6")
    ADD_SHIFTED("four", "q6", "q4", "3"))
#endif

#define ADD_TO(sums, bits) add_products_##bits(work, words, tops, half, sums)

#elif defined(KWS_TABLES)

/* Return two numbers of 16 bits in a word. */
KWS_INLINE uint32_t halves(int low, int high) { return (uint16_t)low | (uint32_t)high << 16; }

/* Store four words by two instructions; compilers would use four. */
KWS_INLINE void store_four(uint32_t *at, uint32_t one, uint32_t two, uint32_t three, uint32_t four) {
    __asm volatile("strd %1, %2, [%0]\n\t"
                   "strd %3, %4, [%0, #8]"
                   :
                   : "r"(at), "r"(one), "r"(two), "r"(three), "r"(four)
                   : "memory");
}

static void prepare(kws_work *work, const kws_layer *layer, const int8_t *input) {
    const int count = 1 << layer->packed->bits, half = (layer->inputs + 1) / 2, rest = layer->inputs - half;
    uint32_t *inputs = work->layers.inputs;
    for (int low = 0; low < count; low += 4) {
        const int8_t *values = layer->packed->values + low, *high = layer->packed->values, *end = high + count;
        const uint32_t one = halves(values[0], 0), two = halves(values[1], 0);
        const uint32_t three = halves(values[2], 0), four = halves(values[3], 0);
        for (uint32_t *pair = work->layers.pairs + low; high != end; pair += count) {
            const uint32_t upper = halves(0, *high++);
            store_four(pair, one | upper, two | upper, three | upper, four | upper);
        }
    }
    for (int i = 0; i < rest; i++) inputs[i] = halves(input[i], input[half + i]);
    if (half > rest) inputs[rest] = halves(input[rest], 0);
}

/* ADD_PRODUCTS defines a function that adds to sums the products of pairs of inputs with four rows. A turn of the loop
 * takes two pairs; if their number is odd, the loop begins in its middle. It is assembler, and not inlined, as
 * compilers do not find enough registers. */
#define ADD_PRODUCTS(name, products_of_a_pair)                                                                        \
    __attribute__((noinline)) static void name(kws_work *work, const void *words, const uint8_t *tops, int half,      \
                                               int32_t sums[ROWS]) {                                                  \
        const uint32_t *inputs = work->layers.inputs, *end = inputs + half;                                           \
        int32_t one = sums[0], two = sums[1], three = sums[2], four = sums[3];                                        \
        uint32_t word, pair, values;                                                                                  \
        __asm volatile("subs %[word], %[end], %[inputs]\n\t"                                                          \
                       "tst %[word], #4\n\t"                                                                          \
                       "bne 2f\n"                                                                                     \
                       "1:\n\t" products_of_a_pair                                                                    \
                       "2:\n\t" products_of_a_pair                                                                    \
                       "cmp %[inputs], %[end]\n\t"                                                                    \
                       "bne 1b"                                                                                       \
                       : [one] "+&r"(one), [two] "+&r"(two), [three] "+&r"(three), [four] "+&r"(four),                \
                         [words] "+&r"(words), [tops] "+&r"(tops), [inputs] "+&r"(inputs), [word] "=&r"(word),        \
                         [pair] "=&r"(pair), [values] "=&r"(values)                                                   \
                       : [table] "r"(work->layers.pairs), [end] "r"(end)                                              \
                       : "cc", "memory");                                                                             \
        sums[0] = one, sums[1] = two, sums[2] = three, sums[3] = four;                                                \
    }
#define LOAD_VALUES "ldr %[values], [%[inputs]], #4\n\t"
#define ADD(row, indices)                                  \
    "ldr %[" indices "], [%[table], %[" indices "], lsl #2]\n\t" \
    "smlad %[" row "], %[" indices "], %[values], %[" row "]\n\t"
#define ADD_BITS(row, first, count)                        \
    "ubfx %[pair], %[word], #" first ", #" count "\n\t"    \
    ADD(row, "pair")

#if KWS_INDICES_3
ADD_PRODUCTS(add_products_3,
    "ldrh %[word], [%[words]], #2\n\t"
    "ldrb %[pair], [%[tops]], #1\n\t" LOAD_VALUES
    "orr %[word], %[word], %[pair], lsl #16\n\t"
    ADD_BITS("one", "0", "6")
    ADD_BITS("two", "6", "6")
    ADD_BITS("three", "12", "6")
    "lsr %[word], %[word], #18\n\t"
    ADD("four", "word"))
#endif
#if KWS_INDICES_4
ADD_PRODUCTS(add_products_4,
    "ldrb %[pair], [%[words], #1]\n\t"
    "ldrb %[word], [%[words]], #2\n\t" LOAD_VALUES
    ADD("two", "pair")
    ADD("one", "word")
    "ldrb %[pair], [%[words], #1]\n\t"
    "ldrb %[word], [%[words]], #2\n\t"
    ADD("four", "pair")
    ADD("three", "word"))
#endif
#if KWS_INDICES_5
ADD_PRODUCTS(add_products_5,
    "ldr %[word], [%[words]], #4\n\t" LOAD_VALUES
    ADD_BITS("one", "0", "10")
    ADD_BITS("two", "10", "10")
    ADD_BITS("three", "20", "10")
    "ldrb %[pair], [%[tops]], #1\n\t"
    "lsr %[word], %[word], #30\n\t"
    "orr %[word], %[word], %[pair], lsl #2\n\t"
    ADD("four", "word"))
#endif

#define ADD_TO(sums, bits) add_products_##bits(work, words, tops, half, sums)

#else

static void prepare(kws_work *work, const kws_layer *layer, const int8_t *input) {
    (void)work, (void)layer, (void)input;
}

/* Keep compilers from reading so far ahead that sums no longer fit in registers. */
#ifdef __GNUC__
#define IN_ORDER __asm volatile("" : : : "memory")
#else
#define IN_ORDER (void)0
#endif

/* Return a sum plus the products of two inputs with a row, whose indices are the lowest bits of `pair`. */
KWS_INLINE int32_t added(int32_t sum, const int8_t *values, int bits, uint32_t pair, int32_t first, int32_t second) {
    const uint32_t mask = (1u << bits) - 1;
    sum += first * values[pair & mask];
    return sum + second * values[pair >> bits & mask];
}

/* Add the products of pairs `at` to `end`. `both` is false if there is no second input. `bits` and `both` are
 * constants, so that each combination gets its own loop. */
KWS_INLINE void add_pairs(int bits, int both, const kws_layer *layer, const int8_t *input, const void *words,
                          const uint8_t *tops, int half, int at, int end, int32_t sums[ROWS]) {
    const int8_t *values = layer->packed->values, *inputs = input + at;
    const uint16_t *short_word = (const uint16_t *)words + at;
    const uint32_t *word = (const uint32_t *)words + at;
    int32_t one = sums[0], two = sums[1], three = sums[2], four = sums[3];
    if (bits != 4) tops += at;
    for (const int8_t *stop = input + end; inputs != stop; inputs++) {
        const int32_t first = *inputs, second = both ? inputs[half] : 0;
        const uint32_t lower = bits == 3 ? *short_word++ | (uint32_t)*tops++ << 16 : *word++;
        one = added(one, values, bits, lower, first, second);
        IN_ORDER;
        two = added(two, values, bits, lower >> 2 * bits, first, second);
        IN_ORDER;
        three = added(three, values, bits, lower >> 4 * bits, first, second);
        IN_ORDER;
        const uint32_t last = bits == 5 ? lower >> 30 | (uint32_t)*tops++ << 2 : lower >> 6 * bits;
        four = added(four, values, bits, last, first, second);
    }
    sums[0] = one, sums[1] = two, sums[2] = three, sums[3] = four;
}

KWS_INLINE void add_all_pairs(int bits, const kws_layer *layer, const int8_t *input, const void *words,
                              const uint8_t *tops, int half, int32_t sums[ROWS]) {
    const int rest = layer->inputs - half;
    add_pairs(bits, 1, layer, input, words, tops, half, 0, rest, sums);
    if (rest < half) add_pairs(bits, 0, layer, input, words, tops, half, rest, half, sums);
}

#define ADD_TO(sums, bits) add_all_pairs(bits, layer, input, words, tops, half, sums)

#endif

static void packed_layer(kws_work *work, const kws_layer *layer, const int8_t *input, int8_t *output) {
    const kws_packed *kernel = layer->packed;
    const int half = (layer->inputs + 1) / 2;
    const kws_range range = range_of(layer);
    prepare(work, layer, input);
    for (int i = 0; i < layer->outputs; i += ROWS) {
        const int begin = i / ROWS * (kernel->bits == 3 ? (half + 1) & ~1 : half); /* vld2 takes aligned words only */
        const uint8_t *tops = kernel->bits == 4 ? kernel->tops : kernel->tops + begin;
        int32_t sums[ROWS]; /* export_c.py fills weights and bias up to whole ROWS */
        memcpy(sums, layer->bias + i, sizeof sums);
#if KWS_INDICES_3
        if (kernel->bits == 3) {
            const uint16_t *words = (const uint16_t *)kernel->words + begin;
            ADD_TO(sums, 3);
        }
#endif
#if KWS_INDICES_4
        if (kernel->bits == 4) {
            const uint32_t *words = (const uint32_t *)kernel->words + begin;
            ADD_TO(sums, 4);
        }
#endif
#if KWS_INDICES_5
        if (kernel->bits == 5) {
            const uint32_t *words = (const uint32_t *)kernel->words + begin;
            ADD_TO(sums, 5);
        }
#endif
#ifdef KWS_HELIUM
        const kws_sums four = vldrwq_s32(sums);
#else
        const kws_sums four = {{sums[0], sums[1], sums[2], sums[3]}};
#endif
        const float *scales = layer->scales + i * layer->scale_step;
        int8_t values[ROWS]; /* there may be fewer outputs */
        const int few = layer->outputs - i < ROWS;
        quantize(range, four, scales, layer->scale_step, few ? values : output + i);
        for (int j = 0; few && i + j < layer->outputs; j++) output[i + j] = values[j];
    }
}
