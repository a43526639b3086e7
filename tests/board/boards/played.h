/* What the stand-ins of the boards share: a microphone that plays what is on standard input, part by part. */
#ifndef PLAYED_H
#define PLAYED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* Stop the program if it does what would fail on a board. */
#define REQUIRE(condition) \
    if (!(condition)) fprintf(stderr, "not so: %s\n", #condition), exit(1)

static int parts_since_feeding = 0; /* of the watchdog */

static inline void feed(void) { parts_since_feeding = 0; }

/* Give the next part. The program ends with the recording. */
static inline void play(void *part, size_t bytes) {
    REQUIRE(parts_since_feeding++ < 50); /* a second */
    if (fread(part, 1, bytes, stdin) < bytes) exit(0);
}

/* Return how many parts come before the program goes on: one, and LATE_BY of them after LATE_AFTER others. */
static inline int parts_now(void) {
    static long played = 0;
    const char *after = getenv("LATE_AFTER"), *by = getenv("LATE_BY");
    const int parts = after && by && played == atol(after) ? atoi(by) : 1;
    played += parts;
    return parts;
}

static bool interrupts_masked = false;
static int parts_waiting = 0; /* until interrupts are no longer masked */

static inline void __disable_irq(void) { interrupts_masked = true; }
static inline void __WFI(void) {
    REQUIRE(interrupts_masked); /* else an interrupt before it is slept through */
    parts_waiting = parts_now();
}

static inline void show(bool on) {
    static bool before = false;
    if (on && !before) puts("LED");
    before = on;
}

#endif
