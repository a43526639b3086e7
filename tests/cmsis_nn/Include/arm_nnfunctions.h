/* What kws_nn.c takes of CMSIS-NN, with its names, types and meaning, to test the calls with. */
#ifndef ARM_NNFUNCTIONS_H
#define ARM_NNFUNCTIONS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifdef __ARM_FEATURE_MVE
#define ARM_MATH_MVEI
#endif

typedef enum { ARM_CMSIS_NN_SUCCESS = 0, ARM_CMSIS_NN_ARG_ERROR = -1 } arm_cmsis_nn_status;

typedef struct {
    void *buf;
    int32_t size;
} cmsis_nn_context;

typedef struct {
    int32_t n, h, w, c;
} cmsis_nn_dims;

typedef struct {
    int32_t w, h;
} cmsis_nn_tile;

typedef struct {
    int32_t min, max;
} cmsis_nn_activation;

/* zero points of input and filter are negated */
typedef struct {
    int32_t input_offset, filter_offset, output_offset;
    cmsis_nn_activation activation;
} cmsis_nn_fc_params;

typedef struct {
    int32_t input_offset, output_offset;
    cmsis_nn_tile stride, padding, dilation;
    cmsis_nn_activation activation;
} cmsis_nn_conv_params;

typedef struct {
    int32_t input_offset, output_offset, ch_mult;
    cmsis_nn_tile stride, padding, dilation;
    cmsis_nn_activation activation;
} cmsis_nn_dw_conv_params;

typedef struct {
    cmsis_nn_tile stride, padding;
    cmsis_nn_activation activation;
} cmsis_nn_pool_params;

typedef struct {
    int32_t multiplier, shift;
} cmsis_nn_per_tensor_quant_params;

typedef struct {
    int32_t *multiplier, *shift;
} cmsis_nn_per_channel_quant_params;

arm_cmsis_nn_status arm_fully_connected_s8(const cmsis_nn_context *context, const cmsis_nn_fc_params *parameters,
                                           const cmsis_nn_per_tensor_quant_params *scale,
                                           const cmsis_nn_dims *input_dims, const int8_t *input,
                                           const cmsis_nn_dims *filter_dims, const int8_t *kernel,
                                           const cmsis_nn_dims *bias_dims, const int32_t *bias,
                                           const cmsis_nn_dims *output_dims, int8_t *output);

arm_cmsis_nn_status arm_convolve_wrapper_s8(const cmsis_nn_context *context, const cmsis_nn_conv_params *parameters,
                                            const cmsis_nn_per_channel_quant_params *scales,
                                            const cmsis_nn_dims *input_dims, const int8_t *input,
                                            const cmsis_nn_dims *filter_dims, const int8_t *kernel,
                                            const cmsis_nn_dims *bias_dims, const int32_t *bias,
                                            const cmsis_nn_dims *output_dims, int8_t *output);

arm_cmsis_nn_status
arm_depthwise_conv_wrapper_s8(const cmsis_nn_context *context, const cmsis_nn_dw_conv_params *parameters,
                              const cmsis_nn_per_channel_quant_params *scales, const cmsis_nn_dims *input_dims,
                              const int8_t *input, const cmsis_nn_dims *filter_dims, const int8_t *kernel,
                              const cmsis_nn_dims *bias_dims, const int32_t *bias, const cmsis_nn_dims *output_dims,
                              int8_t *output);

arm_cmsis_nn_status arm_avgpool_s8(const cmsis_nn_context *context, const cmsis_nn_pool_params *parameters,
                                   const cmsis_nn_dims *input_dims, const int8_t *input,
                                   const cmsis_nn_dims *filter_dims, const cmsis_nn_dims *output_dims, int8_t *output);

/* ---- for the stand-in itself ---- */

/* Return a sum times the scale multiplier * 2^(shift - 31), plus an offset, within a range. */
static inline int8_t requantized(int32_t sum, int32_t multiplier, int32_t shift, int32_t offset,
                                 cmsis_nn_activation range) {
    const int places = 31 - shift;
    sum = (int32_t)(((int64_t)sum * multiplier + ((int64_t)1 << (places - 1))) >> places) + offset;
    return (int8_t)(sum < range.min ? range.min : sum > range.max ? range.max : sum);
}

/* Return an input, or what counts as 0 beyond the edges. */
static inline int32_t input_at(const cmsis_nn_dims *dims, const int8_t *input, int y, int x, int channel, int beyond) {
    if (y < 0 || y >= dims->h || x < 0 || x >= dims->w) return beyond;
    return input[(y * dims->w + x) * dims->c + channel];
}

#ifdef __cplusplus
}
#endif

#endif
