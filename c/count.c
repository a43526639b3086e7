/* Count the instructions of a classification, of the features of a frame and of the longest hop of the detector on an
 * emulated Cortex-M, and the bytes of a detector: `make count`.
 *
 * With -icount shift=0 QEMU's clock advances equally for each instruction, so a timer counts instructions, not cycles.
 * A loop of known length shows how many instructions a tick of the timer is. */
#include "kws_detect.h"
#include "kws_vectors.h"

#if defined(__arm__) && !defined(ARDUINO)
#include <stdio.h>

#define TIMER_CONTROL (*(volatile uint32_t *)0xE000E010) /* SysTick of Arm's architecture */
#define TIMER_RELOAD (*(volatile uint32_t *)0xE000E014)
#define TIMER_VALUE (*(volatile uint32_t *)0xE000E018)
#define TIMER_MASK 0xFFFFFFu
#define REPEATS 16
#define TURNS 1000000 /* of the loop, each of two instructions */

static kws_stream stream;
static int8_t scores[KWS_LABELS];
static kws_feature coefficients[KWS_COEFFICIENTS];

static void known_loop(void) {
    uint32_t turns = TURNS;
    __asm volatile(".syntax unified\n1: subs %0, %0, #1\n bne 1b" : "+l"(turns) : : "cc");
}

static void classify(void) { kws_classify(&stream, kws_vectors[0].input, scores); }

#if KWS_VERIFIER
static void verify(void) { kws_verifier_classify(&stream, kws_vectors[0].verifier_input, scores); }
#endif

#if KWS_STREAMING
/* The network alone, whose layers compute each output once. */
static void take_a_second(void) {
    for (int i = 0; i < KWS_SAMPLE_RATE / KWS_STRIDE; i++) kws_stream_push_mfcc(&stream, coefficients);
}
#endif

static void compute_mfcc(void) {
    const int16_t *middle = kws_vectors[0].samples + KWS_CLIP / 2 - KWS_WINDOW / 2;
    kws_mfcc(&stream, middle, coefficients);
}

static uint32_t ticks(void (*function)(void)) {
    const uint32_t start = TIMER_VALUE;
    for (int i = 0; i < REPEATS; i++) function();
    return (start - TIMER_VALUE) & TIMER_MASK; /* the timer counts down */
}

static uint32_t instructions(void (*function)(void), uint32_t of_loop) {
    return (uint32_t)((uint64_t)ticks(function) * 2 * TURNS / of_loop);
}

/* Return the ticks of the longest kws_push of a stride, while a word is heard, and silence. */
static uint32_t longest_push(void) {
    static kws_detector detector;
    static int16_t silence[KWS_CLIP];
    const int16_t *heard[] = {silence, kws_vectors[0].samples, silence};
    uint32_t longest = 0;
    kws_detect_start(&detector, KWS_HIGH);
    for (int i = 0; i < 3; i++) {
        for (int at = 0; at + KWS_STRIDE <= KWS_CLIP; at += KWS_STRIDE) {
            const uint32_t start = TIMER_VALUE;
            kws_push(&detector, heard[i] + at, KWS_STRIDE);
            const uint32_t taken = (start - TIMER_VALUE) & TIMER_MASK;
            if (taken > longest) longest = taken;
        }
    }
    return longest;
}

int main(void) {
    TIMER_RELOAD = TIMER_MASK;
    TIMER_VALUE = 0;
    TIMER_CONTROL = 5; /* on, at the processor's clock */
    const uint32_t of_loop = ticks(known_loop), of_frame = instructions(compute_mfcc, of_loop);
    const uint32_t of_clip = instructions(classify, of_loop);
    const uint32_t each = (uint32_t)(((uint64_t)of_clip * 100 + KWS_MACS / 2) / KWS_MACS); /* hundredths */
#if KWS_STREAMING
    const uint32_t network = instructions(take_a_second, of_loop);
#else
    const uint32_t network = (uint32_t)((uint64_t)of_clip * KWS_SAMPLE_RATE / KWS_STRIDE);
#endif
    const uint32_t of_second = (uint32_t)((uint64_t)of_frame * KWS_SAMPLE_RATE / KWS_STRIDE) + network;
    printf("%lu instructions for a classification, %lu.%02lu for each of %d multiply-accumulates\n",
           (unsigned long)of_clip, (unsigned long)each / 100, (unsigned long)each % 100, KWS_MACS);
#if KWS_VERIFIER
    printf("%lu instructions for a classification by the verifier\n", (unsigned long)instructions(verify, of_loop));
#endif
    printf("%lu instructions for the %s of a frame\n", (unsigned long)of_frame, KWS_DCT ? "MFCCs" : "features");
#if KWS_STREAMING
    printf("%lu instructions for a second of audio, %lu of them for the network\n", (unsigned long)of_second,
           (unsigned long)network);
#else
    printf("%lu instructions for a second of audio, classified each %d samples\n", (unsigned long)of_second,
           KWS_STRIDE);
#endif
    const uint64_t of_push = (uint64_t)longest_push() * REPEATS * 2 * TURNS / of_loop;
    printf("%lu instructions for the longest kws_push of %d samples\n", (unsigned long)of_push, KWS_STRIDE);
    printf("%lu bytes of RAM for a detector, %lu of them for its stream\n", (unsigned long)sizeof(kws_detector),
           (unsigned long)sizeof(kws_stream));
    return 0;
}
#endif
