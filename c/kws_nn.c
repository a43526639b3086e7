/* The network in 8 bits, bit for bit what LiteRT computes on a PC.
 *
 * Sums of products take most of the time. The compiler's macros choose how they are computed: with Helium (Cortex-M55,
 * M85), with the DSP extension (Cortex-M4, M7, M33), or in plain C, as always if KWS_PLAIN_C is defined. With
 * KWS_CMSIS_NN defined, CMSIS-NN computes the fully connected layers. A convolution is such a layer at each place. */
#include <string.h>

#include "kws.h"

#define ROWS 4 /* rows of weights that are multiplied at once, so that an input is read once for all of them */

/* add_products adds, to sums[i], the products of `count` inputs with row i of the weights. */
#ifdef KWS_HELIUM
#include <arm_mve.h>
#endif

#if KWS_UNPACKED
#if defined(KWS_HELIUM)

static void add_products(const int8_t *inputs, const int8_t *weights, int count, int32_t sums[ROWS]) {
    const int8_t *one = weights, *two = one + count, *three = two + count, *four = three + count;
    int32_t sum_one = sums[0], sum_two = sums[1], sum_three = sums[2], sum_four = sums[3];
    int rest = count;
    for (; rest >= 16; rest -= 16) {
        const int8x16_t values = vldrbq_s8(inputs);
        sum_one = vmladavaq_s8(sum_one, values, vldrbq_s8(one));
        sum_two = vmladavaq_s8(sum_two, values, vldrbq_s8(two));
        sum_three = vmladavaq_s8(sum_three, values, vldrbq_s8(three));
        sum_four = vmladavaq_s8(sum_four, values, vldrbq_s8(four));
        inputs += 16, one += 16, two += 16, three += 16, four += 16;
    }
    if (rest > 0) {
        const mve_pred16_t some = vctp8q((uint32_t)rest); /* the first `rest` of 16 lanes; others count as 0 */
        const int8x16_t values = vldrbq_z_s8(inputs, some);
        sum_one = vmladavaq_s8(sum_one, values, vldrbq_z_s8(one, some));
        sum_two = vmladavaq_s8(sum_two, values, vldrbq_z_s8(two, some));
        sum_three = vmladavaq_s8(sum_three, values, vldrbq_z_s8(three, some));
        sum_four = vmladavaq_s8(sum_four, values, vldrbq_z_s8(four, some));
    }
    sums[0] = sum_one, sums[1] = sum_two, sums[2] = sum_three, sums[3] = sum_four;
}

#elif defined(KWS_DSP)

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

KWS_INLINE uint32_t word_at(const int8_t *bytes) {
    uint32_t word;
    memcpy(&word, bytes, sizeof word); /* rows begin at any address */
    return word;
}

/* Add the products of four inputs, in `even` and `odd`, with the weights of two rows, `count` apart, and move `weights`
 * to the next four. In C, compilers would read so far ahead that sums no longer fit in registers. */
KWS_INLINE void multiply_two_rows(const int8_t **weights, int count, uint32_t even, uint32_t odd,
                                     int32_t *sum, int32_t *next_sum) {
    uint32_t word, halves;
    __asm("ldr %3, [%0, %5]\n\t"
          "sxtb16 %4, %3\n\t"
          "sxtb16 %3, %3, ror #8\n\t"
          "smlad %2, %4, %6, %2\n\t"
          "smlad %2, %3, %7, %2\n\t"
          "ldr %3, [%0], #4\n\t"
          "sxtb16 %4, %3\n\t"
          "sxtb16 %3, %3, ror #8\n\t"
          "smlad %1, %4, %6, %1\n\t"
          "smlad %1, %3, %7, %1"
          : "+r"(*weights), "+r"(*sum), "+r"(*next_sum), "=&r"(word), "=&r"(halves)
          : "r"(count), "r"(even), "r"(odd)
          : "memory");
}

static void add_products(const int8_t *inputs, const int8_t *weights, int count, int32_t sums[ROWS]) {
    const int8_t *one = weights, *three = weights + 2 * count;
    const int8_t *end = inputs + (count & ~3);
    int32_t sum_one = sums[0], sum_two = sums[1], sum_three = sums[2], sum_four = sums[3];
    while (inputs != end) {
        const uint32_t word = word_at(inputs), even = bytes_0_and_2(word), odd = bytes_1_and_3(word);
        inputs += 4;
        multiply_two_rows(&one, count, even, odd, &sum_one, &sum_two);
        multiply_two_rows(&three, count, even, odd, &sum_three, &sum_four);
    }
    for (int i = 0; i < (count & 3); i++, one++, three++) {
        sum_one += inputs[i] * one[0];
        sum_two += inputs[i] * one[count];
        sum_three += inputs[i] * three[0];
        sum_four += inputs[i] * three[count];
    }
    sums[0] = sum_one, sums[1] = sum_two, sums[2] = sum_three, sums[3] = sum_four;
}

#else

static void add_products(const int8_t *inputs, const int8_t *weights, int count, int32_t sums[ROWS]) {
    const int8_t *one = weights, *two = one + count, *three = two + count, *four = three + count;
    int32_t sum_one = sums[0], sum_two = sums[1], sum_three = sums[2], sum_four = sums[3];
    for (int i = 0; i < count; i++) {
        const int32_t value = inputs[i];
        sum_one += value * one[i];
        sum_two += value * two[i];
        sum_three += value * three[i];
        sum_four += value * four[i];
    }
    sums[0] = sum_one, sums[1] = sum_two, sums[2] = sum_three, sums[3] = sum_four;
}

#endif
#endif

/* Write `count` of the sums in steps of the output: times a float32, rounded to the nearest, ties to even, as in
 * XNNPACK, which computes the layers for LiteRT. export_c.py makes sure that products are less than 2^21. */
#if defined(__ARM_FEATURE_MVE) && (__ARM_FEATURE_MVE & 2) && !defined(KWS_PLAIN_C)

static void quantize(const kws_layer *layer, const int32_t sums[ROWS], int row, int count, int8_t *output) {
    const mve_pred16_t some = vctp32q((uint32_t)count);
    const float *scale = layer->scales + row * layer->scale_step;
    const float32x4_t scales = layer->scale_step ? vldrwq_z_f32(scale, some) : vdupq_n_f32(*scale);
    int32x4_t values = vcvtnq_s32_f32(vmulq_f32(vcvtq_f32_s32(vldrwq_s32(sums)), scales));
    values = vmaxq_s32(vaddq_n_s32(values, layer->output_zero), vdupq_n_s32(layer->output_min));
    vstrbq_p_s32(output + row, vminq_s32(values, vdupq_n_s32(127)), some);
}

#else

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

static void quantize(const kws_layer *layer, const int32_t sums[ROWS], int row, int count, int8_t *output) {
    const int32_t zero = layer->output_zero, least = layer->output_min;
    const float *scale = layer->scales + row * layer->scale_step;
    for (int i = 0; i < count; i++, scale += layer->scale_step) {
        const int32_t value = rounded_product(sums[i], *scale) + zero;
        output[row + i] = (int8_t)(value < least ? least : value > 127 ? 127 : value);
    }
}

#endif

#if KWS_UNPACKED
static void fully_connected(const kws_layer *layer, const int8_t *input, int8_t *output) {
    for (int i = 0; i < layer->outputs; i += ROWS) {
        /* The last ROWS rows may repeat some; export_c.py writes at least ROWS. */
        if (i + ROWS > layer->outputs && layer->outputs >= ROWS) i = layer->outputs - ROWS;
        int32_t sums[ROWS];
        memcpy(sums, layer->bias + i, sizeof sums);
        add_products(input, layer->weights + i * layer->inputs, layer->inputs, sums);
        quantize(layer, sums, i, layer->outputs < ROWS ? layer->outputs : ROWS, output);
    }
}
#endif

#if KWS_PACKED
#include "kws_packed.h"
#endif

#ifdef KWS_CMSIS_NN
#include "arm_nnfunctions.h"

static void fully_connected_by_cmsis_nn(const kws_layer *layer, const int8_t *input, int8_t *output) {
    /* CMSIS-NN begins sums with the context on processors with Helium, with the bias on others. */
    const cmsis_nn_context context = {(void *)layer->bias, layer->outputs * (int32_t)sizeof *layer->bias};
    cmsis_nn_fc_params parameters = {0, 0, 0, {0, 127}};
    parameters.output_offset = layer->output_zero;
    parameters.activation.min = layer->output_min;
    const cmsis_nn_per_tensor_quant_params scale = {layer->multiplier, layer->shift};
    const cmsis_nn_dims from = {1, 1, 1, layer->inputs}, to = {1, 1, 1, layer->outputs};
    const cmsis_nn_dims kernel = {layer->inputs, 1, 1, layer->outputs};
    arm_fully_connected_s8(&context, &parameters, &scale, &from, input, &kernel, layer->weights, &to,
                           layer->bias, &to, output);
}
#endif

#if KWS_CONVOLUTIONS

/* Return the values under the kernel at a place of the output, in the order of its weights: a copy, unless they lie
 * beside each other in the input. Beyond the edges of the input lies its zero point. */
static const int8_t *patch_at(const kws_layer *layer, const int8_t *input, int y, int x, int8_t patch[KWS_PATCH]) {
    const kws_shape *from = &layer->from;
    const int channels = from->channels, top = y * layer->stride_height - layer->pad_top;
    const int left = x * layer->stride_width - layer->pad_left;
    const int of_whole_rows = layer->kernel_width == from->width && layer->to.width == 1;
    if ((layer->kernel_height == 1 && layer->kernel_width == 1) ||
        (of_whole_rows && top >= 0 && top + layer->kernel_height <= from->height)) {
        return input + (top * from->width + left) * channels;
    }
    const int before = left < 0 ? -left : 0; /* columns of the kernel to the left of the input */
    int after = left + layer->kernel_width - from->width;
    if (after < 0) after = 0;
    const int inside = layer->kernel_width - before - after;
    int8_t *row = patch;
    for (int i = 0; i < layer->kernel_height; i++, row += layer->kernel_width * channels) {
        const int here = top + i;
        if (here < 0 || here >= from->height) {
            memset(row, layer->input_zero, (size_t)(layer->kernel_width * channels));
            continue;
        }
        memset(row, layer->input_zero, (size_t)(before * channels));
        memcpy(row + before * channels, input + (here * from->width + left + before) * channels,
               (size_t)(inside * channels));
        memset(row + (before + inside) * channels, layer->input_zero, (size_t)(after * channels));
    }
    return patch;
}

/* Add, to sums[i], the products of the values of channel i with its weights, both `channels` apart. */
static void add_channel_products(const int8_t *values, const int8_t *weights, int count, int channels,
                                 int32_t sums[ROWS]) {
#ifdef KWS_HELIUM
    int32x4_t four = vldrwq_s32(sums);
    for (int i = 0; i < count; i++, values += channels, weights += channels) {
        four = vaddq_s32(four, vmulq_s32(vldrbq_s32(values), vldrbq_s32(weights)));
    }
    vstrwq_s32(sums, four);
#else
    int32_t sum_one = sums[0], sum_two = sums[1], sum_three = sums[2], sum_four = sums[3];
    for (int i = 0; i < count; i++, values += channels, weights += channels) {
        sum_one += values[0] * weights[0];
        sum_two += values[1] * weights[1];
        sum_three += values[2] * weights[2];
        sum_four += values[3] * weights[3];
    }
    sums[0] = sum_one, sums[1] = sum_two, sums[2] = sum_three, sums[3] = sum_four;
#endif
}

/* Compute a depthwise convolution at one place: each channel has its own weights, beside those of the next channel. */
static void depthwise(const kws_layer *layer, const int8_t *patch, int8_t *output) {
    const int channels = layer->outputs;
    for (int i = 0; i < channels; i += ROWS) {
        const int rows = channels - i < ROWS ? channels - i : ROWS;
        const int8_t *values = patch + i, *weights = layer->weights + i;
        int32_t sums[ROWS] = {0};
        memcpy(sums, layer->bias + i, (size_t)rows * sizeof *sums);
        if (rows == ROWS) {
            add_channel_products(values, weights, layer->inputs, channels, sums);
        } else {
            for (int j = 0; j < layer->inputs * channels; j += channels) {
                for (int row = 0; row < rows; row++) sums[row] += values[j + row] * weights[j + row];
            }
        }
        quantize(layer, sums, i, rows, output);
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
    if (layer->kind == KWS_FULLY_CONNECTED && layer->scale_step == 0) {
        fully_connected_by_cmsis_nn(layer, input, output);
        return;
    }
#endif
#if KWS_UNPACKED
    if (layer->kind == KWS_FULLY_CONNECTED) fully_connected(layer, input, output);
#endif
#if KWS_CONVOLUTIONS
    if (layer->kind == KWS_AVERAGE) average(layer, input, output);
    if (layer->kind != KWS_CONVOLUTION && layer->kind != KWS_DEPTHWISE) return;
    for (int y = 0; y < rows; y++) {
        for (int x = 0; x < layer->to.width; x++, output += layer->outputs) {
            const int8_t *patch = patch_at(layer, input, y, x, work->layers.patch);
            if (layer->kind == KWS_DEPTHWISE) {
                depthwise(layer, patch, output);
            } else {
                fully_connected(layer, patch, output);
            }
        }
    }
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
    memcpy(scores, stream->scores, KWS_LABELS);
#else
    kws_classify(stream, stream->input, scores);
#endif
}

void kws_classify(kws_stream *stream, const int8_t input[KWS_INPUTS], int8_t scores[KWS_LABELS]) {
#if KWS_STREAMING
    memset(stream->count, 0, sizeof stream->count);
    for (int i = 0; i < KWS_FRAMES; i++) {
        memcpy(stream->kept + stream->count[0] * KWS_COEFFICIENTS, input + i * KWS_COEFFICIENTS, KWS_COEFFICIENTS);
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
