#include <stddef.h>

#include "arm_nnfunctions.h"

#ifndef CMSIS_NN_USE_SINGLE_ROUNDING
#error the layers of a PC are rounded once
#endif

arm_cmsis_nn_status arm_fully_connected_s8(const cmsis_nn_context *context, const cmsis_nn_fc_params *parameters,
                                           const cmsis_nn_per_tensor_quant_params *scale,
                                           const cmsis_nn_dims *input_dims, const int8_t *input,
                                           const cmsis_nn_dims *filter_dims, const int8_t *kernel,
                                           const cmsis_nn_dims *bias_dims, const int32_t *bias,
                                           const cmsis_nn_dims *output_dims, int8_t *output) {
    (void)bias_dims;
#ifdef ARM_MATH_MVEI
    const int32_t *sums = context->buf;
    if (sums == NULL) return ARM_CMSIS_NN_ARG_ERROR;
#else
    const int32_t *sums = NULL;
    (void)context;
#endif
    for (int batch = 0; batch < input_dims->n; batch++, input += filter_dims->n) {
        for (int row = 0; row < output_dims->c; row++) {
            const int8_t *weights = kernel + row * filter_dims->n;
            int32_t sum = sums ? sums[row] : bias[row];
            for (int i = 0; i < filter_dims->n; i++) {
                sum += (input[i] + (sums ? 0 : parameters->input_offset)) * weights[i];
            }
            *output++ = requantized(sum, scale->multiplier, scale->shift, parameters->output_offset,
                                    parameters->activation);
        }
    }
    return ARM_CMSIS_NN_SUCCESS;
}
