/* In CMSIS-NN it calls what is the fastest for the shapes; 3 x 3 kernels need no context but with Helium. */
#include "arm_nnfunctions.h"

arm_cmsis_nn_status
arm_depthwise_conv_wrapper_s8(const cmsis_nn_context *context, const cmsis_nn_dw_conv_params *parameters,
                              const cmsis_nn_per_channel_quant_params *scales, const cmsis_nn_dims *input_dims,
                              const int8_t *input, const cmsis_nn_dims *filter_dims, const int8_t *kernel,
                              const cmsis_nn_dims *bias_dims, const int32_t *bias, const cmsis_nn_dims *output_dims,
                              int8_t *output) {
    const cmsis_nn_tile stride = parameters->stride, padding = parameters->padding;
    const int channels = output_dims->c, taps = filter_dims->h * filter_dims->w;
    const int of_its_own = filter_dims->h == 3 && filter_dims->w == 3 && padding.h <= 1 && padding.w <= 1;
    (void)bias_dims;
#ifdef ARM_MATH_MVEI
    const int needed = 4 * 124 * taps; /* copies of 124 channels at four places */
    (void)of_its_own;
#else
    const int needed = of_its_own ? 0 : 2 * channels * taps;
#endif
    if (parameters->ch_mult != 1 || input_dims->c != channels || filter_dims->n != 1 || filter_dims->c != channels ||
        parameters->dilation.w != 1 || parameters->dilation.h != 1 || context->size < needed) {
        return ARM_CMSIS_NN_ARG_ERROR;
    }
    for (int i = 0; i < needed; i++) ((int8_t *)context->buf)[i] = 85;
    for (int place = 0; place < output_dims->h * output_dims->w; place++) {
        const int top = place / output_dims->w * stride.h - padding.h;
        const int left = place % output_dims->w * stride.w - padding.w;
        for (int channel = 0; channel < channels; channel++) {
            int32_t sum = bias[channel];
            for (int tap = 0; tap < taps; tap++) {
                const int y = top + tap / filter_dims->w, x = left + tap % filter_dims->w;
                const int value = input_at(input_dims, input, y, x, channel, -parameters->input_offset);
                sum += (value + parameters->input_offset) * kernel[tap * channels + channel];
            }
            *output++ = requantized(sum, scales->multiplier[channel], scales->shift[channel],
                                    parameters->output_offset, parameters->activation);
        }
    }
    return ARM_CMSIS_NN_SUCCESS;
}
