/* Save energy while it is quiet: give samples to kws_quiet_push instead of kws_push.
 *
 * Once all windows whose scores are averaged hold only quiet, the detector is given no more audio; the newest 100 ms wait.
 * When it gets louder, the detector takes these and goes on, as if the quiet had been shorter. Times of detections count
 * what was left out. Words that are no louder than the level are missed. */
#ifndef KWS_QUIET_H
#define KWS_QUIET_H

#include <string.h>

#include "kws_detect.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Samples are judged, and left out, in whole hops, so that windows stay as they were. */
#define KWS_QUIET_HOP (KWS_HOP_STRIDES * KWS_STRIDE)
#define KWS_QUIET_WAITING ((KWS_SAMPLE_RATE / 10 + KWS_QUIET_HOP - 1) / KWS_QUIET_HOP) /* hops */
#define KWS_QUIET_AFTER ((KWS_CLIP_STRIDES + KWS_HOP_STRIDES - 1) / KWS_HOP_STRIDES + KWS_SMOOTHED)

/* Its fields are for the functions here, but for left_out. */
typedef struct {
    int16_t hops[KWS_QUIET_WAITING + 1][KWS_QUIET_HOP]; /* a ring: those that wait, and the one that is filled */
    int32_t level;
    int32_t place, samples;  /* of the hop that is filled in the ring, and samples in it */
    int32_t waiting;         /* hops */
    int32_t quiet;           /* hops since the last louder one, at most KWS_QUIET_AFTER */
    uint64_t left_out;       /* samples that the detector was not given */
} kws_quiet;

/* Start beside a detector. Quiet has a standard deviation of at most `level`, of 16-bit samples. */
static inline kws_status kws_quiet_start(kws_quiet *quiet, int32_t level) {
    if (!quiet || level < 0 || level > 32767) return KWS_BAD_ARGUMENT;
    memset(quiet, 0, sizeof *quiet);
    quiet->level = level;
    return KWS_OK;
}

/* Return whether a hop is quiet. A constant offset, as some microphones have, does not count. */
static inline int kws_is_quiet(const int16_t samples[KWS_QUIET_HOP], int32_t level) {
    const int64_t most = (int64_t)level * KWS_QUIET_HOP;
    int64_t sum = 0, squares = 0;
    for (int i = 0; i < KWS_QUIET_HOP; i++) {
        sum += samples[i];
        squares += (int32_t)samples[i] * samples[i];
    }
    return squares * KWS_QUIET_HOP - sum * sum <= most * most;
}

/* Take the next samples, any number of them. KWS_DETECTED if detections wait for kws_next. */
static inline kws_status kws_quiet_push(kws_quiet *quiet, kws_detector *detector, const int16_t *samples,
                                        int32_t count) {
    const int32_t places = KWS_QUIET_WAITING + 1;
    kws_status status = kws_push(detector, samples, 0);
    if (status == KWS_BAD_ARGUMENT || !quiet || count < 0 || (count && !samples)) return KWS_BAD_ARGUMENT;
    while (count > 0) {
        int16_t *hop = quiet->hops[quiet->place];
        const int32_t room = KWS_QUIET_HOP - quiet->samples, part = count < room ? count : room;
        memcpy(hop + quiet->samples, samples, (size_t)part * sizeof *samples);
        quiet->samples += part;
        samples += part, count -= part;
        if (quiet->samples < KWS_QUIET_HOP) break;

        quiet->samples = 0;
        quiet->place = (quiet->place + 1) % places;
        quiet->waiting++;
        const int closed = quiet->quiet == KWS_QUIET_AFTER;
        if (!kws_is_quiet(hop, quiet->level)) {
            quiet->quiet = 0;
        } else if (!closed) {
            quiet->quiet++;
        } else {
            if (quiet->waiting <= KWS_QUIET_WAITING) continue;
            quiet->waiting--;
            quiet->left_out += KWS_QUIET_HOP;
            detector->received += KWS_QUIET_HOP; /* later times count it */
            continue;
        }
        for (; quiet->waiting > 0; quiet->waiting--) {
            const int16_t *oldest = quiet->hops[(quiet->place + places - quiet->waiting) % places];
            status = kws_push(detector, oldest, KWS_QUIET_HOP);
        }
    }
    return status;
}

#ifdef __cplusplus
}
#endif

#endif
