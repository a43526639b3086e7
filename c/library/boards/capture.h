/* From what a microphone gives to what kws_push takes: 16-bit samples at 16 kHz.
 *
 * capture_samples removes the constant part, amplifies, clips, and filters 48 kHz down to 16 kHz: within 0.1 dB up to
 * 6.8 kHz, and what would fold there from above 9.2 kHz is 60 dB lower. capture_halves says what DMA has filled. */
#ifndef CAPTURE_H
#define CAPTURE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    CAPTURE_24_IN_32,  /* int32_t with the sample in the upper bits: I2S of RP2040 and ESP32, SAI with 32 bits */
    CAPTURE_24_HALVES, /* two uint16_t, upper bits first: I2S of STM32 */
    CAPTURE_16,        /* int16_t: PDM of nRF52 */
    CAPTURE_ADC_12     /* uint16_t around 2048 */
} capture_format;

#define CAPTURE_UNITY 16 /* the gain that changes nothing */
#define CAPTURE_TAPS 60  /* of the filter */

/* The state of one microphone. Its fields are for capture.c. */
typedef struct {
    capture_format format;
    int32_t step, gain, mean;         /* the mean of the samples, times 1024 */
    int32_t every, phase;             /* how many samples make one of 16 kHz: 3 or 1 */
    int32_t place;                    /* of the oldest sample */
    int16_t latest[2 * CAPTURE_TAPS]; /* a ring, twice, so that the latest samples lie in one piece */
} capture;

/* Start. The rate is 48000 or 16000. `step` is how many places the next sample is away: 2 if only one of two slots is
 * used. The gain counts in 1/CAPTURE_UNITY, 1 to 1023. Return 1; or 0, and no samples follow, if an argument is none of
 * these. */
int capture_start(capture *state, capture_format format, int32_t rate, int32_t step, int32_t gain);

/* Take `count` samples, any number of them. Return how many were written to `samples`, at most count / 3 + 1 of 48 kHz
 * and count of 16 kHz. */
int32_t capture_samples(capture *state, const void *given, int32_t count, int16_t *samples);

/* Two halves of a buffer that DMA fills in turn. The interrupt adds one to `full`. The loop waits until it is not
 * `taken`, reads half taken % 2, and calls capture_taken. */
typedef struct {
    volatile uint32_t full;
    uint32_t taken;
} capture_halves;

/* Go on to the next half. Return 0 if the one that was read is whole. Else DMA was faster: return how many halves it
 * has written over, the one that was read among them. */
uint32_t capture_taken(capture_halves *halves);

#ifdef __cplusplus
}
#endif

#endif
