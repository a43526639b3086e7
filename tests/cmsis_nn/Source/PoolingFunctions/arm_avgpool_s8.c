#include "arm_nnfunctions.h"

/* The means are of all places, which are the only ones that the C module asks for. */
arm_cmsis_nn_status arm_avgpool_s8(const cmsis_nn_context *context, const cmsis_nn_pool_params *parameters,
                                   const cmsis_nn_dims *input_dims, const int8_t *input,
                                   const cmsis_nn_dims *filter_dims, const cmsis_nn_dims *output_dims, int8_t *output) {
    const int channels = input_dims->c, places = input_dims->h * input_dims->w;
    if (filter_dims->h != input_dims->h || filter_dims->w != input_dims->w || parameters->padding.w != 0 ||
        parameters->padding.h != 0 || output_dims->h != 1 || output_dims->w != 1) {
        return ARM_CMSIS_NN_ARG_ERROR;
    }
#ifndef ARM_MATH_MVEI
    /* sums are in the context on processors with the DSP extension */
    if (context->size < 4 * channels) return ARM_CMSIS_NN_ARG_ERROR;
    for (int i = 0; i < channels; i++) ((int32_t *)context->buf)[i] = 85;
#else
    (void)context;
#endif
    for (int channel = 0; channel < channels; channel++) {
        int32_t sum = 0;
        for (int i = 0; i < places; i++) sum += input[i * channels + channel];
        sum = (sum + (sum > 0 ? places / 2 : -(places / 2))) / places;
        if (sum < parameters->activation.min) sum = parameters->activation.min;
        if (sum > parameters->activation.max) sum = parameters->activation.max;
        output[channel] = (int8_t)sum;
    }
    return ARM_CMSIS_NN_SUCCESS;
}
