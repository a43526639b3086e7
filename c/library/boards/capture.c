/* From what a microphone gives to 16-bit samples at 16 kHz, in integers. */
#include "capture.h"

#include <string.h>

#define BITS 20       /* of a sample before it is amplified */
#define MEAN_SHIFT 10 /* high-pass at 7.5 Hz of 48 kHz, 2.5 Hz of 16 kHz */

/* A low-pass of even symmetry in steps of 2^-15, its first half. With scipy.signal:
 * remez(60, [0, 6800, 9200, 24000], [1, 0], weight=[1, 14], fs=48000) */
static const int16_t low_pass[CAPTURE_TAPS / 2] = {
    -10, 13, 52, 84, 65, -18, -106, -106, 15, 166,
    187, 6, -245, -306, -47, 348, 483, 123, -489, -752,
    -258, 698, 1209, 526, -1082, -2205, -1237, 2266, 6915, 10210
};

int capture_start(capture *state, capture_format format, int32_t rate, int32_t step, int32_t gain) {
    memset(state, 0, sizeof *state);
    if ((rate != 16000 && rate != 48000) || step < 1 || gain < 1 || gain > 1023) return 0;
    state->format = format;
    state->step = step;
    state->gain = gain;
    state->every = rate / 16000;
    return 1;
}

/* Return a sample of BITS bits. */
static int32_t sample_at(capture_format format, const void *given, int32_t place) {
    if (format == CAPTURE_16) return ((const int16_t *)given)[place] * (1 << (BITS - 16));
    if (format == CAPTURE_ADC_12) return (((const uint16_t *)given)[place] - 2048) * (1 << (BITS - 12));
    if (format == CAPTURE_24_IN_32) return ((const int32_t *)given)[place] >> (32 - BITS);
    const uint16_t *halves = (const uint16_t *)given + 2 * place;
    return (int32_t)((uint32_t)halves[0] << 16 | halves[1]) >> (32 - BITS);
}

/* Return a value divided by 2^shift, rounded and clipped. */
static int16_t clipped(int32_t value, int shift) {
    value = (value + (1 << (shift - 1))) >> shift;
    return (int16_t)(value > INT16_MAX ? INT16_MAX : value < INT16_MIN ? INT16_MIN : value);
}

/* Return the filter's output for the latest samples. The coefficients' sizes sum up to less than 2, so no sum
 * overflows. */
static int16_t filtered(const capture *state) {
    const int16_t *first = state->latest + state->place, *last = first + CAPTURE_TAPS - 1;
    int32_t sum = 0;
    for (int i = 0; i < CAPTURE_TAPS / 2; i++) sum += low_pass[i] * (first[i] + last[-i]);
    return clipped(sum, 15);
}

int32_t capture_samples(capture *state, const void *given, int32_t count, int16_t *samples) {
    int32_t made = 0;
    if (!state->every) return 0; /* not started */
    for (int32_t i = 0; i < count; i++) {
        const int32_t moving = sample_at(state->format, given, i * state->step) - (state->mean >> MEAN_SHIFT);
        const int16_t sample = clipped(moving * state->gain, BITS - 16 + 4); /* 4: gain in 1/16 */
        state->mean += moving;
        if (state->every < 3) {
            samples[made++] = sample;
            continue;
        }
        state->latest[state->place] = state->latest[state->place + CAPTURE_TAPS] = sample;
        if (++state->place == CAPTURE_TAPS) state->place = 0;
        if (++state->phase < 3) continue;
        state->phase = 0;
        samples[made++] = filtered(state);
    }
    return made;
}

uint32_t capture_taken(capture_halves *halves) {
    const uint32_t lost = halves->full - halves->taken - 1;
    halves->taken += lost ? lost : 1;
    return lost;
}
