/* What a Cortex-M needs before main: a vector table, and the floating-point unit switched on. Prints go to the
 * debugger (semihosting) or to QEMU. Boards of your own bring theirs in place of this file and board.ld. */
#ifndef ARDUINO /* whose boards have their own */
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
extern uint32_t board_stack_top;
void _start(void); /* of the C library: clears what must be zero, and calls main */
#ifdef __cplusplus
}
#endif

static void stop(void) {
    for (;;) {
    }
}

static void reset(void) {
    *(volatile uint32_t *)0xE000ED88 |= 0xFu << 20; /* CPACR: full access to the FPU (and to MVE) */
    __asm volatile("dsb\n isb");
    _start();
}

__attribute__((section(".vectors"), used)) static const void *const vectors[16] = {
    &board_stack_top, (void *)reset, (void *)stop, (void *)stop, (void *)stop, (void *)stop,
};
#endif
