/* The network in 8 bits, bit for bit what LiteRT computes on a PC.
 *
 * Sums of products take most of the time. The compiler's macros choose how they are computed: with Helium (Cortex-M55,
 * M85), with the DSP extension (Cortex-M4, M7, M33), or in plain C, as always if KWS_PLAIN_C is defined. With
 * KWS_CMSIS_NN defined, CMSIS-NN computes all layers whose weights are not packed (kws_cmsis_nn.h). A convolution is a
 * fully connected layer at each place. */
#include <string.h>

#include "kws.h"

#define ROWS 4 /* rows of weights that are multiplied at once, so that an input is read once for all of them */

#ifdef KWS_HELIUM
#include <arm_mve.h>
typedef int32x4_t kws_sums; /* of ROWS rows */
#else
typedef struct {
    int32_t of_row[ROWS];
} kws_sums;
#endif

/* Rows of weights are filled up to whole words with zeros, so that words can be loaded; they lie `pitch` apart.
 * add_products returns, for row i, bias[i] plus the products of `count` inputs with the weights. */

#if KWS_UNPACKED && !defined(KWS_CMSIS_NN)
#if defined(KWS_HELIUM)

typedef int8_t kws_value; /* of an input, as add_products takes it */

static const kws_value *prepared(kws_work *work, const kws_layer *layer, const int8_t *input) {
    (void)work, (void)layer;
    return input;
}

/* It is assembler, as compilers do not make loops that leave out the lanes beyond the end. */
KWS_INLINE kws_sums add_products(const kws_value *inputs, const int8_t *weights, int pitch, int count,
                                 const int32_t *bias) {
    const int8_t *one = weights, *two = one + pitch, *three = two + pitch, *four = three + pitch;
    int32_t sum_one = bias[0], sum_two = bias[1], sum_three = bias[2], sum_four = bias[3];
    kws_sums sums;
    __asm volatile("dlstp.8 lr, %[count]\n"
                   "1:\n\t"
                   "vldrb.8 q0, [%[inputs]], #16\n\t"
                   "vldrb.8 q1, [%[one]], #16\n\t"
                   "vmladava.s8 %[sum_one], q0, q1\n\t"
                   "vldrb.8 q2, [%[two]], #16\n\t"
                   "vmladava.s8 %[sum_two], q0, q2\n\t"
                   "vldrb.8 q3, [%[three]], #16\n\t"
                   "vmladava.s8 %[sum_three], q0, q3\n\t"
                   "vldrb.8 q1, [%[four]], #16\n\t"
                   "vmladava.s8 %[sum_four], q0, q1\n\t"
                   "letp lr, 1b\n\t"
                   "vmov.32 %q[sums][0], %[sum_one]\n\t"
                   "vmov.32 %q[sums][1], %[sum_two]\n\t"
                   "vmov.32 %q[sums][2], %[sum_three]\n\t"
                   "vmov.32 %q[sums][3], %[sum_four]"
                   : [sum_one] "+&Te"(sum_one), [sum_two] "+&Te"(sum_two), [sum_three] "+&Te"(sum_three),
                     [sum_four] "+&Te"(sum_four), [sums] "=w"(sums), [inputs] "+&r"(inputs), [one] "+&r"(one),
                     [two] "+&r"(two), [three] "+&r"(three), [four] "+&r"(four)
                   : [count] "r"(count)
                   : "lr", "q0", "q1", "q2", "q3", "memory");
    return sums;
}

#elif defined(KWS_DSP)

typedef uint32_t kws_value; /* two inputs of 16 bits, as SMLAD takes them */

/* Compilers from before 2020 lack the intrinsics for these instructions. */
KWS_INLINE uint32_t bytes_0_and_2(uint32_t word) {
    uint32_t halves;
    __asm("sxtb16 %0, %1" : "=r"(halves) : "r"(word));
    return halves;
}

KWS_INLINE uint32_t bytes_1_and_3(uint32_t word) {
    uint32_t halves;
    __asm("sxtb16 %0, %1, ror #8" : "=r"(halves) : "r"(word));
    return halves;
}

/* Widen `count` inputs to 16 bits. Of each four, words[0] gets numbers 0 and 2, and words[step] numbers 1 and 3; the
 * next four lie 2 * step words behind. The last four are filled up. */
static void widen(const int8_t *inputs, int count, int step, kws_value *words) {
    const int aligned = ((uintptr_t)inputs & 3) == 0;
    for (; count > 0; count -= 4, inputs += 4, words += 2 * step) {
        uint32_t word;
        if (aligned && count >= 4) {
            memcpy(&word, __builtin_assume_aligned(inputs, 4), sizeof word);
        } else {
            const volatile int8_t *byte = inputs; /* volatile, or compilers load a word from there */
            word = 0;
            for (int i = 0; i < 4 && i < count; i++) word |= (uint32_t)(uint8_t)byte[i] << 8 * i;
        }
        words[0] = bytes_0_and_2(word);
        words[step] = bytes_1_and_3(word);
    }
}

static const kws_value *prepared(kws_work *work, const kws_layer *layer, const int8_t *input) {
    widen(input, layer->inputs, 1, work->layers.inputs_of_16);
    return work->layers.inputs_of_16;
}

/* A function in assembler alone: compilers do not find enough registers, and do not see that parameters are used. */
#define KWS_ASSEMBLER __attribute__((naked, noinline, used)) static
#pragma GCC diagnostic ignored "-Wunused-parameter"

#define PRODUCTS_OF_TWO_ROWS(sum, next_sum, weights)   \
    "ldr r12, [" weights ", r2]\n\t"                   \
    "sxtb16 lr, r12\n\t"                               \
    "sxtb16 r12, r12, ror #8\n\t"                      \
    "smlad " next_sum ", lr, r4, " next_sum "\n\t"     \
    "smlad " next_sum ", r12, r5, " next_sum "\n\t"    \
    "ldr r12, [" weights "], #4\n\t"                   \
    "sxtb16 lr, r12\n\t"                               \
    "sxtb16 r12, r12, ror #8\n\t"                      \
    "smlad " sum ", lr, r4, " sum "\n\t"               \
    "smlad " sum ", r12, r5, " sum "\n\t"

/* Add, to sums[i], the products of inputs with row i of the weights. */
KWS_ASSEMBLER void add_products_of_rows(const kws_value *inputs, const int8_t *weights, int pitch, int32_t *sums) {
    __asm("push {r4-r11, lr}\n\t"
          "ldmia r3, {r8-r11}\n\t"
          "add r6, r1, r2, lsl #1\n\t"
          "add r7, r1, r2\n" /* clang-format off */
          "1:\n\t"
          "ldrd r4, r5, [r0], #8\n\t"
          PRODUCTS_OF_TWO_ROWS("r8", "r9", "r1")
          PRODUCTS_OF_TWO_ROWS("r10", "r11", "r6") /* clang-format on */
          "cmp r1, r7\n\t"
          "bne 1b\n\t"
          "stmia r3, {r8-r11}\n\t"
          "pop {r4-r11, pc}");
}

static kws_sums add_products(const kws_value *inputs, const int8_t *weights, int pitch, int count, const int32_t *bias) {
    kws_sums sums = {{bias[0], bias[1], bias[2], bias[3]}};
    (void)count;
    add_products_of_rows(inputs, weights, pitch, sums.of_row);
    return sums;
}

#else

typedef int8_t kws_value; /* of an input, as add_products takes it */

static const kws_value *prepared(kws_work *work, const kws_layer *layer, const int8_t *input) {
    (void)work, (void)layer;
    return input;
}

static kws_sums add_products(const kws_value *inputs, const int8_t *weights, int pitch, int count, const int32_t *bias) {
    const int8_t *one = weights, *two = one + pitch, *three = two + pitch, *four = three + pitch;
    int32_t sum_one = bias[0], sum_two = bias[1], sum_three = bias[2], sum_four = bias[3];
    for (int i = 0; i < count; i++) {
        const int32_t input = inputs[i];
        sum_one += input * one[i];
        sum_two += input * two[i];
        sum_three += input * three[i];
        sum_four += input * four[i];
    }
    const kws_sums sums = {{sum_one, sum_two, sum_three, sum_four}};
    return sums;
}

#endif
#endif

/* Sums in steps of the output are sums times a float32, rounded to the nearest, ties to even, as in XNNPACK, which
 * computes the layers for LiteRT. export_c.py makes sure that products are less than 2^21. */
KWS_INLINE int32_t rounded_product(int32_t sum, float scale) {
    int32_t value;
#if defined(__arm__) && defined(__ARM_FP) && (__ARM_FP & 4) && defined(__GNUC__)
    float product = (float)sum * scale;
    __asm("vcvtr.s32.f32 %0, %0" : "+t"(product)); /* the register then holds an integer */
    memcpy(&value, &product, sizeof value);
    return value;
#else
    /* Volatile, so that the product is rounded before the addition, even if the processor could fuse them. */
    volatile float product = (float)sum * scale;
    const float at_ones = product + 12582912.0f; /* 1.5 * 2^23: from 2^23 to 2^24 all float32 are whole numbers */
    memcpy(&value, &at_ones, sizeof value);
    return value - 0x4B400000; /* the bits of 1.5 * 2^23 */
#endif
}

/* Of outputs: a copy, as compilers would read it from the layer again after each byte that is written. */
typedef struct {
    int32_t zero, least;
#ifdef KWS_HELIUM
    int32x4_t all_least, most;
#endif
} kws_range;

KWS_INLINE kws_range range_of(const kws_layer *layer) {
    kws_range range;
    range.zero = layer->output_zero, range.least = layer->output_min;
#ifdef KWS_HELIUM
    range.all_least = vdupq_n_s32(range.least), range.most = vdupq_n_s32(127);
#endif
    return range;
}

KWS_INLINE int8_t quantized(kws_range range, int32_t sum, float scale) {
    int32_t value = rounded_product(sum, scale) + range.zero;
#ifdef KWS_DSP
    __asm("ssat %0, #8, %0" : "+r"(value));
#else
    if (value > 127) value = 127;
#endif
    if (value < range.least) value = range.least;
    return (int8_t)value;
}

/* Write ROWS sums in steps of the output; `step` is 0 if all have the scale *scales. */
#ifdef KWS_HELIUM

KWS_INLINE int32x4_t scaled(int32x4_t sums, float32x4_t scales) {
    return vcvtnq_s32_f32(vmulq_f32(vcvtq_f32_s32(sums), scales));
}

KWS_INLINE void quantize(kws_range range, kws_sums sums, const float *scales, int step, int8_t *output) {
    const float32x4_t four = step ? vldrwq_f32(scales) : vdupq_n_f32(*scales);
    const int32x4_t values = vmaxq_s32(vaddq_n_s32(scaled(sums, four), range.zero), range.all_least);
    vstrbq_s32(output, vminq_s32(values, range.most));
}

#else

KWS_INLINE void quantize(kws_range range, kws_sums sums, const float *scales, int step, int8_t *output) {
    output[0] = quantized(range, sums.of_row[0], scales[0]);
    output[1] = quantized(range, sums.of_row[1], scales[step]);
    output[2] = quantized(range, sums.of_row[2], scales[2 * step]);
    output[3] = quantized(range, sums.of_row[3], scales[3 * step]);
}

#endif

KWS_INLINE int pitch_of(const kws_layer *layer) { return (layer->inputs + 3) & ~3; }

#if KWS_UNPACKED && !defined(KWS_CMSIS_NN)
/* Weights, bias and scales have at least ROWS rows, outputs may have fewer. */
static void fully_connected(kws_work *work, const kws_layer *layer, const int8_t *input, int8_t *output) {
    const kws_value *values = prepared(work, layer, input);
    const kws_range range = range_of(layer);
    const int pitch = pitch_of(layer), inputs = layer->inputs, step = layer->scale_step, last = layer->outputs - ROWS;
    const int8_t *weights = layer->weights;
    const int32_t *bias = layer->bias;
    const float *scales = layer->scales;
    if (last < 0) {
        int8_t few[ROWS];
        quantize(range, add_products(values, weights, pitch, inputs, bias), scales, step, few);
        for (int i = 0; i < layer->outputs; i++) output[i] = few[i];
        return;
    }
    for (int i = 0;; i = i + ROWS < last ? i + ROWS : last) { /* the last ROWS rows may repeat some */
        const kws_sums sums = add_products(values, weights + i * pitch, pitch, inputs, bias + i);
        quantize(range, sums, scales + i * step, step, output + i);
        if (i == last) return;
    }
}
#endif

#if KWS_PACKED
#include "kws_packed.h"
#endif

#ifdef KWS_CMSIS_NN
#include "kws_cmsis_nn.h"
#endif

/* Copy a few values. memcpy takes longer, and may load words from any address. */
KWS_INLINE void copy(int8_t *to, const int8_t *from, int count) {
#ifdef KWS_HELIUM
    for (; count > 0; count -= 16, to += 16, from += 16) {
        const mve_pred16_t some = vctp8q((uint32_t)count);
        vstrbq_p_s8(to, vldrbq_z_s8(from, some), some);
    }
#else
    for (const int8_t *end = from + count; from != end;) *to++ = *from++;
#endif
}

#if KWS_CONVOLUTIONS && !defined(KWS_CMSIS_NN)

/* Return the values under the kernel at a place of the output, in the order of its weights: a copy, unless they lie
 * beside each other in the input. Beyond the edges of the input lies its zero point. */
static const int8_t *patch_at(const kws_layer *layer, const int8_t *input, int place, int8_t patch[KWS_PATCH]) {
    const kws_shape *from = &layer->from;
    const int channels = from->channels, width = layer->to.width;
    const int top = place / width * layer->stride_height - layer->pad_top;
    const int left = place % width * layer->stride_width - layer->pad_left;
    const int of_whole_rows = layer->kernel_width == from->width && width == 1;
    if ((layer->kernel_height == 1 && layer->kernel_width == 1) ||
        (of_whole_rows && top >= 0 && top + layer->kernel_height <= from->height)) {
        return input + (top * from->width + left) * channels;
    }
    const int before = left < 0 ? -left : 0; /* columns of the kernel to the left of the input */
    int after = left + layer->kernel_width - from->width;
    if (after < 0) after = 0;
    const int inside = layer->kernel_width - before - after;
    int8_t *row = patch;
    for (int y = top; y < top + layer->kernel_height; y++, row += layer->kernel_width * channels) {
        if (y < 0 || y >= from->height) {
            memset(row, layer->input_zero, (size_t)(layer->kernel_width * channels));
            continue;
        }
        if (before) memset(row, layer->input_zero, (size_t)(before * channels));
        copy(row + before * channels, input + (y * from->width + left + before) * channels, inside * channels);
        if (after) memset(row + (before + inside) * channels, layer->input_zero, (size_t)(after * channels));
    }
    return patch;
}

#ifdef KWS_DSP

#define PLACES 4 /* of the output that are computed at once, so that a row of weights is read once for all of them */

/* The products of a word of weights with the inputs of four places. */
#define PRODUCTS_OF_A_WORD            \
    "ldr r12, [r1], #4\n\t"           \
    "ldmia r0!, {r4-r7}\n\t"          \
    "sxtb16 lr, r12\n\t"              \
    "sxtb16 r12, r12, ror #8\n\t"     \
    "smlad r8, lr, r4, r8\n\t"        \
    "smlad r9, lr, r5, r9\n\t"        \
    "smlad r10, lr, r6, r10\n\t"      \
    "smlad r11, lr, r7, r11\n\t"      \
    "ldmia r0!, {r4-r7}\n\t"          \
    "smlad r8, r12, r4, r8\n\t"       \
    "smlad r9, r12, r5, r9\n\t"       \
    "smlad r10, r12, r6, r10\n\t"     \
    "smlad r11, r12, r7, r11\n\t"

/* Add, to sums[i], the products of the inputs of place i with a row of weights. A turn of the loop takes two words of
 * them; if their number is odd, the loop begins in its middle. */
KWS_ASSEMBLER void add_products_of_places(const kws_value *inputs, const int8_t *weights, int pitch, int32_t *sums) {
    __asm("push {r4-r11, lr}\n\t"
          "ldmia r3, {r8-r11}\n\t"
          "tst r2, #4\n\t"
          "add.w r2, r1, r2\n\t"
          "bne 2f\n" /* clang-format off */
          "1:\n\t"
          PRODUCTS_OF_A_WORD
          "2:\n\t"
          PRODUCTS_OF_A_WORD /* clang-format on */
          "cmp r1, r2\n\t"
          "bne 1b\n\t"
          "stmia r3, {r8-r11}\n\t"
          "pop {r4-r11, pc}");
}

/* Compute `count` places of a convolution, whose inputs are widened. */
static void convolve_places(const kws_value *inputs, const kws_layer *layer, int count, int8_t *output) {
    const int8_t *weights = layer->weights;
    const float *scale = layer->scales;
    const int32_t *bias = layer->bias;
    const kws_range range = range_of(layer);
    const int outputs = layer->outputs, pitch = pitch_of(layer), step = layer->scale_step;
    for (const int8_t *stop = output + outputs; output != stop; output++, bias++, scale += step, weights += pitch) {
        int32_t sums[PLACES] = {*bias, *bias, *bias, *bias};
        add_products_of_places(inputs, weights, pitch, sums);
        output[0] = quantized(range, sums[0], *scale);
        output[outputs] = quantized(range, sums[1], *scale);
        output[2 * outputs] = quantized(range, sums[2], *scale);
        if (count == PLACES) output[3 * outputs] = quantized(range, sums[3], *scale);
    }
}

/* Compute the first `places` places of a convolution. Four at once need their inputs in the buffer at once. */
static void convolution(kws_work *work, const kws_layer *layer, int places, const int8_t *input, int8_t *output) {
    kws_value *inputs = work->layers.inputs_of_16;
    const int at_once = PLACES / 2 * pitch_of(layer) <= KWS_WIDE ? PLACES : 1;
    for (int i = 0; i < places;) {
        const int left = places - i, count = left < at_once ? left : at_once;
        if (count < PLACES - 1) {
            const int8_t *patch = patch_at(layer, input, i, work->layers.patch);
            fully_connected(work, layer, patch, output + i++ * layer->outputs);
            continue;
        }
        for (int j = 0; j < count; j++) {
            const int8_t *patch = patch_at(layer, input, i + j, work->layers.patch);
            widen(patch, layer->inputs, PLACES, inputs + j);
        }
        convolve_places(inputs, layer, count, output + i * layer->outputs);
        i += count;
    }
}

#else

static void convolution(kws_work *work, const kws_layer *layer, int places, const int8_t *input, int8_t *output) {
    for (int i = 0; i < places; i++, output += layer->outputs) {
        fully_connected(work, layer, patch_at(layer, input, i, work->layers.patch), output);
    }
}

#endif

/* Find the values under a depthwise kernel at a place of the output: `taps` point to all channels of each. Beyond the
 * edges of the input is its zero point, in `beyond`. */
static void find_taps(const kws_layer *layer, const int8_t *input, int place, const int8_t *beyond,
                      const int8_t *taps[KWS_TAPS]) {
    const int height = layer->from.height, width = layer->from.width, channels = layer->outputs;
    const int top = place / layer->to.width * layer->stride_height - layer->pad_top;
    const int left = place % layer->to.width * layer->stride_width - layer->pad_left;
    const int bottom = top + layer->kernel_height, right = left + layer->kernel_width;
    const int inside = top >= 0 && bottom <= height && left >= 0 && right <= width;
    for (int y = top; y < bottom; y++) {
        const int8_t *tap = input + (y * width + left) * channels;
        if (inside) {
            for (int x = left; x < right; x++, tap += channels) *taps++ = tap;
        } else {
            for (int x = left; x < right; x++, tap += channels) {
                *taps++ = y >= 0 && y < height && x >= 0 && x < width ? tap : beyond;
            }
        }
    }
}

/* Compute a channel of a depthwise convolution at a place. */
static int32_t channel_sum(const kws_layer *layer, const int8_t *const *taps, int channel) {
    const int8_t *weights = layer->weights + channel;
    int32_t sum = layer->bias[channel];
    for (int i = 0; i < layer->inputs; i++, weights += layer->outputs) sum += taps[i][channel] * *weights;
    return sum;
}

#ifdef KWS_HELIUM

#define CHANNELS 16 /* lanes of a vector */

/* Add products of 16 channels to four sums: of channels 0, 4, 8 and 12, and of those that are 1, 2 and 3 higher, as
 * instructions on even or odd lanes leave them. */
#define ADD_CHANNELS(even_products, odd_products)                  \
    sum_one = vaddq_s32(sum_one, vmovlbq_s16(even_products));      \
    sum_two = vaddq_s32(sum_two, vmovlbq_s16(odd_products));       \
    sum_three = vaddq_s32(sum_three, vmovltq_s16(even_products));  \
    sum_four = vaddq_s32(sum_four, vmovltq_s16(odd_products))

/* Compute 16 channels at once. Products of two taps add up in 16 bits, as weights are -127 to 127. */
static void some_channels(const kws_layer *layer, const int8_t *const *taps, int8_t *output) {
    const int channels = layer->outputs, step = layer->scale_step;
    const int8_t *const *end = taps + layer->inputs;
    const uint32x4_t lanes = vmulq_n_u32(vidupq_n_u32(0, 1), 4), steps = vmulq_n_u32(lanes, (uint32_t)step);
    const int16_t zero = (int16_t)layer->output_zero;
    const int8x16_t least = vdupq_n_s8((int8_t)layer->output_min);
    for (int first = 0; first < channels; first += CHANNELS) {
        if (first + CHANNELS > channels) first = channels - CHANNELS; /* the last may repeat some */
        const int8_t *weights = layer->weights + first;
        const int8_t *const *tap = taps;
        const int32_t *bias = layer->bias + first;
        int32x4_t sum_one = vldrwq_gather_shifted_offset_s32(bias, lanes);
        int32x4_t sum_two = vldrwq_gather_shifted_offset_s32(bias + 1, lanes);
        int32x4_t sum_three = vldrwq_gather_shifted_offset_s32(bias + 2, lanes);
        int32x4_t sum_four = vldrwq_gather_shifted_offset_s32(bias + 3, lanes);
        if (layer->inputs & 1) {
            const int8x16_t values = vldrbq_s8(*tap++ + first), kernel = vldrbq_s8(weights);
            const int16x8_t even = vmullbq_int_s8(values, kernel), odd = vmulltq_int_s8(values, kernel);
            ADD_CHANNELS(even, odd);
            weights += channels;
        }
        while (tap != end) {
            int8x16_t values = vldrbq_s8(*tap++ + first), kernel = vldrbq_s8(weights);
            int16x8_t even = vmullbq_int_s8(values, kernel), odd = vmulltq_int_s8(values, kernel);
            weights += channels;
            values = vldrbq_s8(*tap++ + first), kernel = vldrbq_s8(weights);
            even = vaddq_s16(even, vmullbq_int_s8(values, kernel));
            odd = vaddq_s16(odd, vmulltq_int_s8(values, kernel));
            ADD_CHANNELS(even, odd);
            weights += channels;
        }
        const float *scale = layer->scales + first * step;
        sum_one = scaled(sum_one, vldrwq_gather_shifted_offset_f32(scale, steps));
        sum_two = scaled(sum_two, vldrwq_gather_shifted_offset_f32(scale + step, steps));
        sum_three = scaled(sum_three, vldrwq_gather_shifted_offset_f32(scale + 2 * step, steps));
        sum_four = scaled(sum_four, vldrwq_gather_shifted_offset_f32(scale + 3 * step, steps));
        /* narrowed to 16 and to 8 bits, and saturated */
        const int16x8_t even = vqaddq_n_s16(vqmovntq_s32(vqmovnbq_s32(vdupq_n_s16(0), sum_one), sum_three), zero);
        const int16x8_t odd = vqaddq_n_s16(vqmovntq_s32(vqmovnbq_s32(vdupq_n_s16(0), sum_two), sum_four), zero);
        vstrbq_s8(output + first, vmaxq_s8(vqmovntq_s16(vqmovnbq_s16(least, even), odd), least));
    }
}

#define SOME_CHANNELS (channels >= CHANNELS)

#elif defined(KWS_DSP)

#define PRODUCTS_OF_A_TAP          \
    "ldr r4, [r0], #4\n\t"         \
    "ldr r5, [r2]\n\t"             \
    "ldr r4, [r4, r12]\n\t"        \
    "add r2, r2, r3\n\t"           \
    "sxtb16 r6, r5\n\t"            \
    "sxtb16 r7, r4\n\t"            \
    "sxtb16 r5, r5, ror #8\n\t"    \
    "sxtb16 r4, r4, ror #8\n\t"    \
    "smlabb r8, r6, r7, r8\n\t"    \
    "smlatt r10, r6, r7, r10\n\t"  \
    "smlabb r9, r4, r5, r9\n\t"    \
    "smlatt r11, r4, r5, r11\n\t"

/* Add, to sums[i], the products of channel first + i of all taps; `weights` are those of channel `first`. A turn of the
 * loop takes two taps; if their number is odd, the loop begins in its middle. */
KWS_ASSEMBLER void add_products_of_taps(const int8_t *const *taps, const int8_t *const *end, const int8_t *weights,
                                        int channels, int first, int32_t *sums) {
    __asm("push {r4-r11, lr}\n\t"
          "ldrd r12, lr, [sp, #36]\n\t"
          "ldmia lr, {r8-r11}\n\t"
          "sub r4, r1, r0\n\t"
          "tst r4, #4\n\t"
          "bne 2f\n" /* clang-format off */
          "1:\n\t"
          PRODUCTS_OF_A_TAP
          "2:\n\t"
          PRODUCTS_OF_A_TAP /* clang-format on */
          "cmp r0, r1\n\t"
          "bne 1b\n\t"
          "stmia lr, {r8-r11}\n\t"
          "pop {r4-r11, pc}");
}

/* Compute four channels at once; all begin with whole words. */
static void some_channels(const kws_layer *layer, const int8_t *const *taps, int8_t *output) {
    const int channels = layer->outputs, step = layer->scale_step;
    const int8_t *weights = layer->weights;
    const int32_t *bias = layer->bias;
    const float *scales = layer->scales;
    const kws_range range = range_of(layer);
    const int8_t *const *end = taps + layer->inputs;
    for (int first = 0; first < channels; first += ROWS, bias += ROWS, scales += ROWS * step) {
        kws_sums sums = {{bias[0], bias[1], bias[2], bias[3]}};
        add_products_of_taps(taps, end, weights + first, channels, first, sums.of_row);
        quantize(range, sums, scales, step, output + first);
    }
}

/* Whether channels begin with whole words. */
#define SOME_CHANNELS ((((uintptr_t)input | (uintptr_t)layer->weights | (uintptr_t)channels) & 3) == 0)

#endif

/* Compute the first `places` places of a depthwise convolution: each channel has its own weights, beside those of the
 * next channel. */
static void depthwise(kws_work *work, const kws_layer *layer, int places, const int8_t *input, int8_t *output) {
    const int channels = layer->outputs;
    const int8_t *taps[KWS_TAPS];
    if (KWS_PATCH >= channels) memset(work->layers.patch, layer->input_zero, (size_t)channels);
    for (int place = 0; place < places; place++, output += channels) {
        find_taps(layer, input, place, work->layers.patch, taps);
#ifdef SOME_CHANNELS
        if (SOME_CHANNELS) {
            some_channels(layer, taps, output);
            continue;
        }
#endif
        for (int i = 0; i < channels; i++) {
            const float scale = layer->scales[i * layer->scale_step];
            output[i] = quantized(range_of(layer), channel_sum(layer, taps, i), scale);
        }
    }
}

/* Compute the mean of each channel over all places, rounded to the nearest, ties away from zero. */
static void average(const kws_layer *layer, const int8_t *input, int8_t *output) {
    const int channels = layer->outputs, places = layer->from.height * layer->from.width;
    for (int channel = 0; channel < channels; channel++) {
        int32_t sum = 0;
        for (int i = 0; i < places; i++) sum += input[i * channels + channel];
        output[channel] = (int8_t)((sum + (sum > 0 ? places / 2 : -(places / 2))) / places);
    }
}

#endif

/* Compute the first `rows` places in time of a layer's output. */
static void compute(kws_work *work, const kws_layer *layer, int rows, const int8_t *input, int8_t *output) {
    (void)work, (void)rows; /* which some models do not need */
#if KWS_PACKED
    if (layer->packed) {
        packed_layer(work, layer, input, output);
        return;
    }
#endif
#ifdef KWS_CMSIS_NN
    compute_by_cmsis_nn(work, layer, rows, input, output);
#else
#if KWS_UNPACKED
    if (layer->kind == KWS_FULLY_CONNECTED) fully_connected(work, layer, input, output);
#endif
#if KWS_CONVOLUTIONS
    if (layer->kind == KWS_AVERAGE) average(layer, input, output);
    if (layer->kind == KWS_CONVOLUTION) convolution(work, layer, rows * layer->to.width, input, output);
    if (layer->kind == KWS_DEPTHWISE) depthwise(work, layer, rows * layer->to.width, input, output);
#endif
#endif
}

/* Turn scores into probabilities, in place: exp(score) / sum of exp(scores). Distances to the highest score are 0 to
 * 255, so a table holds every exp, and none overflows. */
static void softmax(const float exponentials[256], int8_t scores[KWS_LABELS]) {
    float sum = 0;
    int highest = scores[kws_best(scores)];
    for (int i = 0; i < KWS_LABELS; i++) sum += exponentials[highest - scores[i]];
    float factor = 1 / (sum * KWS_SCORE_SCALE);
    for (int i = 0; i < KWS_LABELS; i++) {
        volatile float steps = exponentials[highest - scores[i]] * factor; /* volatile as in rounded_product */
        int32_t value = (int32_t)(steps + 0.5f) + KWS_SCORE_ZERO;
        scores[i] = (int8_t)(value > 127 ? 127 : value);
    }
}

#if !KWS_STREAMING || KWS_VERIFIER
/* Compute the scores of a clip as a whole. */
static void classify(kws_work *work, const kws_layer *layers, int count, const float exponentials[256],
                     const int8_t *input, int8_t scores[KWS_LABELS]) {
    const int8_t *from = input;
    for (int i = 0; i < count; i++) {
        int8_t *to = i == count - 1 ? scores : i % 2 ? work->layers.odd : work->layers.even;
        compute(work, &layers[i], layers[i].to.height, from, to);
        from = to;
    }
    softmax(exponentials, scores);
}
#endif

#if KWS_STREAMING
void kws_stream_compute(kws_stream *stream) {
    int8_t *kept = stream->kept;
    for (int i = 0; i < KWS_LAYERS; i++) {
        const kws_layer *layer = &kws_layers[i];
        const int height = layer->kernel_height, row = layer->from.width * layer->from.channels;
        if (++stream->count[i] < height) return;
        /* the next layer keeps its inputs behind this one's, and gets one more */
        int8_t *next = kept + height * row, *output = stream->scores;
        if (i + 1 < KWS_LAYERS) output = next + stream->count[i + 1] * layer->to.width * layer->to.channels;
        compute(&stream->work, layer, 1, kept, output);
        stream->count[i] = (int16_t)(height - layer->stride_height);
        memmove(kept, kept + layer->stride_height * row, (size_t)(stream->count[i] * row));
        kept = next;
    }
    softmax(kws_softmax, stream->scores);
}
#endif

void kws_stream_scores(kws_stream *stream, int8_t scores[KWS_LABELS]) {
#if KWS_STREAMING
    copy(scores, stream->scores, KWS_LABELS);
#else
    kws_classify(stream, stream->input, scores);
#endif
}

void kws_classify(kws_stream *stream, const int8_t input[KWS_INPUTS], int8_t scores[KWS_LABELS]) {
#if KWS_STREAMING
    memset(stream->count, 0, sizeof stream->count);
    for (int i = 0; i < KWS_FRAMES; i++) {
        copy(stream->kept + stream->count[0] * KWS_COEFFICIENTS, input + i * KWS_COEFFICIENTS, KWS_COEFFICIENTS);
        kws_stream_compute(stream);
    }
    kws_stream_scores(stream, scores);
#else
    classify(&stream->work, kws_layers, KWS_LAYERS, kws_softmax, input, scores);
#endif
}

#if KWS_VERIFIER
void kws_verifier_classify(kws_stream *stream, const int8_t input[KWS_VERIFIER_INPUTS], int8_t scores[KWS_LABELS]) {
    classify(&stream->work, kws_verifier_layers, KWS_VERIFIER_LAYERS, kws_verifier_softmax, input, scores);
}
#endif

int kws_best(const int8_t scores[KWS_LABELS]) {
    int best = 0;
    for (int i = 1; i < KWS_LABELS; i++) {
        if (scores[i] > scores[best]) best = i;
    }
    return best;
}
