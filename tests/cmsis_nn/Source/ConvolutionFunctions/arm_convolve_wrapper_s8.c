/* In CMSIS-NN it calls what is the fastest for the shapes. Inputs are widened in the context, as there. */
#include "arm_nnfunctions.h"

arm_cmsis_nn_status arm_convolve_wrapper_s8(const cmsis_nn_context *context, const cmsis_nn_conv_params *parameters,
                                            const cmsis_nn_per_channel_quant_params *scales,
                                            const cmsis_nn_dims *input_dims, const int8_t *input,
                                            const cmsis_nn_dims *filter_dims, const int8_t *kernel,
                                            const cmsis_nn_dims *bias_dims, const int32_t *bias,
                                            const cmsis_nn_dims *output_dims, int8_t *output) {
    const cmsis_nn_tile stride = parameters->stride, padding = parameters->padding;
    const int row = filter_dims->h * filter_dims->w * input_dims->c, channels = output_dims->c;
    (void)bias_dims;
    if (filter_dims->c != input_dims->c || filter_dims->n != channels || parameters->dilation.w != 1 ||
        parameters->dilation.h != 1 || context->size < 4 * row) {
        return ARM_CMSIS_NN_ARG_ERROR;
    }
    for (int place = 0; place < output_dims->h * output_dims->w; place++) {
        const int top = place / output_dims->w * stride.h - padding.h;
        const int left = place % output_dims->w * stride.w - padding.w;
        int16_t *inputs = (int16_t *)context->buf + place % 2 * row;
        for (int i = 0; i < row; i++) {
            const int tap = i / input_dims->c, y = top + tap / filter_dims->w, x = left + tap % filter_dims->w;
            const int value = input_at(input_dims, input, y, x, i % input_dims->c, -parameters->input_offset);
            inputs[i] = (int16_t)(value + parameters->input_offset);
        }
        for (int channel = 0; channel < channels; channel++) {
            int32_t sum = bias[channel];
            for (int i = 0; i < row; i++) sum += inputs[i] * kernel[channel * row + i];
            *output++ = requantized(sum, scales->multiplier[channel], scales->shift[channel],
                                    parameters->output_offset, parameters->activation);
        }
    }
    return ARM_CMSIS_NN_SUCCESS;
}
