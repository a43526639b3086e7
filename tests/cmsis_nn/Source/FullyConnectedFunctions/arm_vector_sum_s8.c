#include "arm_nnfunctions.h"

arm_cmsis_nn_status arm_vector_sum_s8(int32_t *sums, const int32_t columns, const int32_t rows,
                                      const int8_t *vectors, const int32_t lhs_offset,
                                      const int32_t rhs_offset, const int32_t *bias) {
    (void)rhs_offset;
    for (int row = 0; row < rows; row++) {
        sums[row] = bias ? bias[row] : 0;
        for (int i = 0; i < columns; i++) sums[row] += lhs_offset * *vectors++;
    }
    return ARM_CMSIS_NN_SUCCESS;
}
