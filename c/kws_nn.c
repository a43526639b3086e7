/* Fully connected layers and softmax in 8 bits: bit for bit what LiteRT computes on a PC, whose sums are
 * scaled with one rounding. With KWS_CMSIS_NN defined, CMSIS-NN computes the layers; it rounds like LiteRT
 * where it is built with CMSIS_NN_USE_SINGLE_ROUNDING. */
#include "kws.h"

#ifdef KWS_CMSIS_NN
#include "arm_nnfunctions.h"

static void fully_connected(const kws_layer *layer, const int8_t *input, int8_t *output) {
    /* On processors with Helium sums begin with what is in the context, on others with the bias. */
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

#else

/* A sum times multiplier * 2^(shift - 31), rounded to the nearest: fixed point, as in arXiv:1712.05877, section 2.2.
 * The product has 64 bits and is rounded once; gemmlowp's two roundings would differ from LiteRT by a step. */
static int32_t scaled(int32_t sum, const kws_layer *layer) {
    int places = 31 - layer->shift;
    return (int32_t)(((int64_t)sum * layer->multiplier + ((int64_t)1 << (places - 1))) >> places);
}

static void fully_connected(const kws_layer *layer, const int8_t *input, int8_t *output) {
    const int8_t *weights = layer->weights;
    for (int i = 0; i < layer->outputs; i++, weights += layer->inputs) {
        int32_t sum = layer->bias[i];
        for (int j = 0; j < layer->inputs; j++) sum += input[j] * weights[j];
        int32_t value = scaled(sum, layer) + layer->output_zero;
        output[i] = (int8_t)(value < layer->output_min ? layer->output_min : value > 127 ? 127 : value);
    }
}

#endif

/* Probabilities, in place: exp(score) / sum of exp(scores). Distances to the highest score are 0 to 255, so that a
 * table holds every exp and none overflows. */
static void softmax(int8_t scores[KWS_LABELS]) {
    float sum = 0;
    int highest = scores[kws_best(scores)];
    for (int i = 0; i < KWS_LABELS; i++) sum += kws_softmax[highest - scores[i]];
    float factor = 1 / (sum * KWS_SCORE_SCALE);
    for (int i = 0; i < KWS_LABELS; i++) {
        int32_t value = (int32_t)(kws_softmax[highest - scores[i]] * factor + 0.5f) + KWS_SCORE_ZERO;
        scores[i] = (int8_t)(value > 127 ? 127 : value);
    }
}

void kws_classify(const int8_t input[KWS_INPUTS], int8_t scores[KWS_LABELS]) {
    static int8_t hidden[2][KWS_WIDEST]; /* a layer reads one and writes the other */
    const int8_t *from = input;
    for (int i = 0; i < KWS_LAYERS; i++) {
        int8_t *to = i == KWS_LAYERS - 1 ? scores : hidden[i % 2];
        fully_connected(&kws_layers[i], from, to);
        from = to;
    }
    softmax(scores);
}

int kws_best(const int8_t scores[KWS_LABELS]) {
    int best = 0;
    for (int i = 1; i < KWS_LABELS; i++) {
        if (scores[i] > scores[best]) best = i;
    }
    return best;
}
