/* Start a Cortex-M: a vector table, and the floating-point unit switched on. Prints go to the debugger (semihosting)
 * or to QEMU. Your own board has its own startup code, in place of this file and board.ld. */
#include <stdint.h>

#ifndef ARDUINO /* Arduino's boards have their own */

#ifdef __cplusplus
extern "C" {
#endif
extern uint32_t board_stack_top;
void _start(void); /* in the C library: clears what must be zero, and calls main */
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

typedef struct {
    const void *stack;
    void (*handlers[15])(void);
} vector_table;

__attribute__((section(".vectors"), used)) static const vector_table vectors = {
    &board_stack_top, {reset, stop, stop, stop, stop, stop}};
#endif
