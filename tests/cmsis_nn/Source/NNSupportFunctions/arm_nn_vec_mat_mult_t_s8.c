/* In CMSIS-NN, what arm_fully_connected_s8 calls. */
typedef int nothing;
