/* Layers by Arm's CMSIS-NN, with KWS_CMSIS_NN defined. A part of kws_nn.c.
 *
 * CMSIS-NN scales sums by a fixed-point number, LiteRT by a float32: some outputs are one step off. CMSIS-NN must be
 * compiled with CMSIS_NN_USE_SINGLE_ROUNDING, so that sums are rounded once, as on a PC. */
#include "arm_nnfunctions.h"

/* Write a layer's scales as multiplier * 2^(shift - 31): the fraction and the exponent of a float32. */
static void split_scales(const kws_layer *layer, int count, int32_t *multipliers, int32_t *shifts) {
    for (int i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &layer->scales[i * layer->scale_step], sizeof bits);
        multipliers[i] = (int32_t)((bits << 7 & 0x3FFFFFFF) | 0x40000000);
        shifts[i] = (int32_t)(bits >> 23) - 126;
    }
}

/* Compute a fully connected layer with one scale. */
static void one_scale(const kws_layer *layer, const int8_t *input, int8_t *output) {
    /* sums begin with what the context holds on processors with Helium, with the bias on others */
    const cmsis_nn_context context = {(void *)layer->bias, layer->outputs * (int32_t)sizeof *layer->bias};
    const cmsis_nn_dims from = {1, 1, 1, layer->inputs}, to = {1, 1, 1, layer->outputs};
    const cmsis_nn_dims kernel = {layer->inputs, 1, 1, layer->outputs};
    const cmsis_nn_fc_params parameters = {0, 0, layer->output_zero, {layer->output_min, 127}};
    cmsis_nn_per_tensor_quant_params scale;
    split_scales(layer, 1, &scale.multiplier, &scale.shift);
    arm_fully_connected_s8(&context, &parameters, &scale, &from, input, &kernel, layer->weights, &to, layer->bias, &to,
                           output);
}

/* Compute the first `rows` places in time of a layer's output. */
static void compute_by_cmsis_nn(kws_work *work, const kws_layer *layer, int rows, const int8_t *input, int8_t *output) {
    if (layer->kind == KWS_FULLY_CONNECTED && layer->scale_step == 0) {
        one_scale(layer, input, output);
        return;
    }
#if KWS_CONVOLUTIONS
    /* a stream computes one row at a time, from the inputs under the kernel */
    const int height = rows == layer->to.height ? layer->from.height : layer->kernel_height;
    cmsis_nn_dims from = {1, height, layer->from.width, layer->from.channels};
    const cmsis_nn_dims to = {1, rows, layer->to.width, layer->outputs};
    const cmsis_nn_context context = {work->layers.scratch, (int32_t)sizeof work->layers.scratch};
    const cmsis_nn_per_channel_quant_params scales = {work->layers.multipliers, work->layers.shifts};
    const cmsis_nn_tile stride = {layer->stride_width, layer->stride_height}, one = {1, 1};
    const cmsis_nn_tile padding = {layer->pad_left, layer->pad_top};
    const cmsis_nn_activation range = {layer->output_min, 127};
    cmsis_nn_dims kernel = {1, layer->kernel_height, layer->kernel_width, layer->outputs};
    /* with Helium it refuses a single row whose last inputs are not used */
    const int32_t used = (to.w - 1) * stride.w + kernel.w - padding.w;
    if (height == 1 && used < from.w) from.w = used;
    if (layer->kind == KWS_AVERAGE) {
        const cmsis_nn_pool_params parameters = {stride, padding, {-128, 127}};
        arm_avgpool_s8(&context, &parameters, &from, input, &kernel, &to, output);
        return;
    }
    split_scales(layer, layer->outputs, scales.multiplier, scales.shift);
    if (layer->kind == KWS_DEPTHWISE) {
        const cmsis_nn_dw_conv_params parameters = {
            -layer->input_zero, layer->output_zero, 1, stride, padding, one, range};
        arm_depthwise_conv_wrapper_s8(&context, &parameters, &scales, &from, input, &kernel, layer->weights, &to,
                                      layer->bias, &to, output);
    } else {
        const cmsis_nn_conv_params parameters = {-layer->input_zero, layer->output_zero, stride, padding, one, range};
        kernel.n = layer->outputs, kernel.c = from.c;
        arm_convolve_wrapper_s8(&context, &parameters, &scales, &from, input, &kernel, layer->weights, &to,
                                layer->bias, &to, output);
    }
#else
    (void)work, (void)rows;
#endif
}
