/* The steps of kws_features.c in integers, for processors without a floating-point unit. A part of kws_features.c.
 *
 * Values of the FFT have 32 bits, factors up to 15. Before a stage all values are shifted right until they have 16 bits
 * and a sign, so that their products fit (block scaling). Mel channels are sums of magnitudes in 32 bits; tables of
 * roots and logarithms are interpolated. What is far more quiet than the loudest is lost in rounding. */

#define MOST_BITS 16              /* of values before they are multiplied */
#define TURN_BITS 14              /* of kws_twiddle after the point */
#define WINDOW_BITS 15            /* of kws_window */
#define MEL_BITS 13               /* of kws_mel_weights */
#define KEPT_BITS 6               /* of a weighted magnitude */
#define DCT_BITS 16               /* of kws_dct */
#define FEATURE_BITS 16           /* of logarithms and features */
#define LN_2 45426                /* in 2^-16 */
#define LN_SMALLEST (-1810870)    /* ln 1e-12, of digital silence */

/* Return |x|, or |x| - 1 if x is negative: it has as many bits. */
KWS_INLINE uint32_t size_of(int32_t x) { return (uint32_t)(x ^ (x >> 31)); }

/* Return by how many bits `size` must be shifted to have at most `most`. */
static int bits_above(uint32_t size, int most) {
    int bits = 0;
    while (size >> (most + bits)) bits++;
    return bits;
}

KWS_INLINE complex_value halves(complex_value a, int bits) {
    const complex_value result = {shifted(a.real, bits), shifted(a.imaginary, bits)};
    return result;
}

KWS_INLINE complex_value turned(complex_value a, complex_value angle) {
    const complex_value result = {shifted(a.real * angle.real + a.imaginary * angle.imaginary, TURN_BITS),
                                  shifted(a.imaginary * angle.real - a.real * angle.imaginary, TURN_BITS)};
    return result;
}

KWS_INLINE uint32_t sizes_of(complex_value a) { return size_of(a.real) | size_of(a.imaginary); }

static uint32_t largest(const complex_value buffer[POINTS]) {
    uint32_t all = 0;
    for (int i = 0; i < POINTS; i++) all |= sizes_of(buffer[i]);
    return all;
}

/* Join transforms of `size` values by fours, and return all bits of the results. Values are shifted by `bits` before. */
static uint32_t join(complex_value buffer[POINTS], int size, int bits) {
    const int step = KWS_FFT / (4 * size); /* in the table, whose angles are 2 pi / KWS_FFT apart */
    uint32_t all = 0;
    for (int k = 0; k < size; k++) {
        const complex_value once = twiddle(k * step), twice = twiddle(2 * k * step);
        complex_value thrice = twiddle(3 * k * step & (KWS_FFT / 2 - 1)); /* the table has half a turn */
        if (3 * k * step >= KWS_FFT / 2) thrice.real = -thrice.real, thrice.imaginary = -thrice.imaginary;
        for (complex_value *a = &buffer[k]; a < buffer + POINTS; a += 4 * size) {
            /* with reversed bits, the second quarter is the third */
            complex_value first = halves(a[0], bits), second = turned(halves(a[2 * size], bits), once);
            complex_value third = turned(halves(a[size], bits), twice);
            complex_value fourth = turned(halves(a[3 * size], bits), thrice);
            transform_4(&first, &second, &third, &fourth);
            a[0] = first, a[size] = second, a[2 * size] = third, a[3 * size] = fourth;
            all |= sizes_of(first) | sizes_of(second) | sizes_of(third) | sizes_of(fourth);
        }
    }
    return all;
}

/* Shift a number left by pairs of bits until one of the highest two is set; return by how many pairs. */
KWS_INLINE int normalize(uint32_t *x) {
    int pairs = 0;
    if (!(*x >> 16)) *x <<= 16, pairs = 8;
    if (!(*x >> 24)) *x <<= 8, pairs += 4;
    if (!(*x >> 28)) *x <<= 4, pairs += 2;
    if (!(*x >> 30)) *x <<= 2, pairs += 1;
    return pairs;
}

KWS_INLINE uint32_t root(uint32_t x) {
    if (!x) return 0;
    const int pairs = normalize(&x);
    const uint16_t *entry = &kws_roots[(x >> 26) - 16];
    const uint32_t result = entry[0] + ((uint32_t)(entry[1] - entry[0]) * (x >> 10 & 0xFFFF) >> 16);
    return (result + (1u << pairs >> 1)) >> pairs;
}

/* Return the natural logarithm of a positive number. */
static int32_t logarithm(uint32_t x) {
    int bits = 31 - 2 * normalize(&x);
    if (!(x >> 31)) x <<= 1, bits--;
    const uint16_t *entry = &kws_logarithms[x >> 25 & 63];
    return entry[0] + (int32_t)((uint32_t)(entry[1] - entry[0]) * (x >> 9 & 0xFFFF) >> 16) + bits * LN_2;
}

/* Return the magnitude of bin k (see magnitude in kws_features.c) of values that are shifted by `bits` before. */
static uint32_t magnitude(const complex_value spectrum[POINTS], int k, int bits) {
    const complex_value one = spectrum[k], other = spectrum[POINTS - k];
    const complex_value even = {one.real + other.real, one.imaginary - other.imaginary};
    const complex_value odd = {one.imaginary + other.imaginary, other.real - one.real};
    const complex_value whole = plus(halves(even, bits), turned(halves(odd, bits), twiddle(k)));
    const int more = sizes_of(whole) >> 15 ? 3 : 0; /* so that squares fit */
    const complex_value small = halves(whole, more);
    return root((uint32_t)(small.real * small.real) + (uint32_t)(small.imaginary * small.imaginary)) << more;
}

/* Compute the logarithms of the mel channels of a frame. */
static void log_mel(kws_work *work, const int16_t *samples, int32_t mel[KWS_MEL_CHANNELS]) {
    uint32_t all = 0, above = 0;
    int before = 0, after = 0, any = 0;
    for (int i = 0; i < KWS_WINDOW; i++) all |= size_of(samples[i]), any |= samples[i];
    if (!any) {
        for (int i = 0; i < KWS_MEL_CHANNELS; i++) mel[i] = LN_SMALLEST;
        return;
    }
    /* the loudest windowed sample has 14 bits: the first butterflies add eight */
    while (before < 14 && all << before >> 14 == 0) before++;
    first_butterflies(samples, WINDOW_BITS + 1 - before, work->spectrum);
    all = largest(work->spectrum);
    for (int size = FIRST; size < POINTS; size *= 4) {
        const int bits = bits_above(all, MOST_BITS);
        all = join(work->spectrum, size, bits);
        after += bits;
    }
    const int bits = bits_above(2 * all, MOST_BITS);
    /* what magnitudes are in: steps of 2^-15 after halving, times 2^before, / 2^(after + bits) */
    const int32_t scale = (15 + before - after - bits + KEPT_BITS) * LN_2;
    for (int channel = -1, i = 0; channel < KWS_MEL_CHANNELS; channel++) {
        uint32_t here = above;
        above = 0;
        for (; i < kws_mel_ends[channel + 1]; i++) {
            const uint32_t loudness = magnitude(work->spectrum, KWS_FIRST_BIN + i, bits);
            here += (uint32_t)kws_mel_weights[i][0] * loudness >> (MEL_BITS - KEPT_BITS);
            above += (uint32_t)kws_mel_weights[i][1] * loudness >> (MEL_BITS - KEPT_BITS);
        }
        if (channel >= 0) mel[channel] = logarithm(here > 0 ? here : 1) - scale;
    }
}

#if KWS_DCT_ROWS
/* The DCT of kws_features.c: products of 10 bits of logarithms after the point with 16 of the cosines. */
static void cosine_transform(int32_t mel[KWS_MEL_CHANNELS], int count, int32_t *coefficients) {
    const int bits = FEATURE_BITS - 10, less = 3; /* so that sums fit */
    for (int i = 0; i < KWS_MEL_CHANNELS / 2; i++) {
        int32_t *one = &mel[i], *other = &mel[KWS_MEL_CHANNELS - 1 - i];
        const int32_t sum = shifted(*one + *other, bits);
        *other = shifted(*one - *other, bits);
        *one = sum;
    }
    for (int i = 0; i < count; i++) {
        const int32_t *value = i % 2 ? &mel[KWS_MEL_CHANNELS - 1] : mel;
        const int forward = i % 2 ? -1 : 1;
        int32_t sum = 0;
        for (int j = 0; j < KWS_MEL_CHANNELS / 2; j++, value += forward) sum += shifted(kws_dct[i][j] * *value, less);
        coefficients[i] = shifted(sum, DCT_BITS - less - bits);
    }
}
#endif

/* Quantize as TFLite does; a feature of 1 is `scale` steps, in 2^-bits. `scale` has 30 bits: two parts, so that products
 * fit. */
KWS_INLINE void quantize(const int32_t *features, int count, int32_t scale, int bits, int zero, int8_t *input) {
    const int32_t high = scale >> 15, low = scale & 0x7FFF;
    for (int i = 0; i < count; i++) {
        const int32_t whole = features[i] >> 8, rest = features[i] & 255;
        const int32_t steps = whole * high + (whole * low >> 15) + (rest * high >> 8);
        const int32_t value = shifted(steps, bits - 15 + FEATURE_BITS - 8) + zero;
        input[i] = (int8_t)(value < -128 ? -128 : value > 127 ? 127 : value);
    }
}
