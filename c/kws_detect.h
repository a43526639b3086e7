/* Detect words in an endless stream, at the same times as kws/detect/streaming.py on the PC.
 *
 * Scores of the latest windows are averaged. A word is detected if its mean is the highest of all labels and
 * reaches the threshold, unless something was detected less than the refractory time ago (as in P. Warden,
 * arXiv:1804.03209, section 7). Hop, smoothing, refractory time and thresholds are the model's own.
 *
 * With a verifier, a word is detected if the verifier agrees. While the word's mean reaches KWS_GATE, the verifier scores
 * the newest window every KWS_ASK_EVERY hops, at most KWS_ASK_MOST times until that mean has fallen below the gate. The
 * mean of its latest KWS_ASK_MEAN scores must reach the threshold (kws/detect/verifier.py). */
#ifndef KWS_DETECT_H
#define KWS_DETECT_H

#include "kws.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { KWS_LOW, KWS_NORMAL, KWS_HIGH }; /* sensitivities: few false alarms ... few misses */

typedef enum {
    KWS_BAD_ARGUMENT = -1, /* nothing was done */
    KWS_OK = 0,
    KWS_DETECTED = 1
} kws_status;

typedef struct {
    uint64_t sample; /* since the start, in the middle of the windows that were averaged */
    int label;       /* its name is kws_labels[label] */
    float score;     /* mean, 0 to 1 */
} kws_detection;

#define KWS_WAITING 4 /* detections that wait for kws_next */
#define KWS_CLIP_AUDIO (KWS_CLIP_STRIDES * KWS_STRIDE)

/* A detector. Its fields are for kws_detect.c; two detectors share nothing. */
typedef struct {
    kws_stream stream;
    int16_t stride[KWS_STRIDE]; /* samples that are less than a stride */
    int32_t samples;            /* how many they are */
    int32_t until_window;       /* strides until the next window is complete */
    uint64_t received;          /* samples, in whole strides, since the start; with those lost */
    /* smoothing */
    int8_t recent[KWS_SMOOTHED][KWS_LABELS]; /* scores of the latest windows, a ring */
    int32_t sums[KWS_LABELS];                /* their sums, less KWS_SCORE_ZERO each */
    int32_t place, windows;                  /* of the next window in the ring, and windows in it */
    /* what counts as a detection */
    int32_t threshold;           /* in 1/10000 */
    int wake_label;              /* 0 for none: see kws_detect_after */
    uint64_t listen;             /* half samples, as the times that follow */
    uint64_t last, awake_until;  /* the last detection, and the end of listening */
    kws_detection found[KWS_WAITING];
    int32_t waiting; /* number of detections in found, from old to new */
#if KWS_VERIFIER
    int asked_label;
    int32_t asked, wait;      /* how often about this word, and hops until the next time */
    int32_t answer, answers[KWS_ASK_MEAN]; /* place of the next one, and the latest, a ring */
    int32_t next;             /* place of the next sample in audio */
    int16_t audio[KWS_CLIP_AUDIO]; /* the latest window, a ring */
    int16_t frame[KWS_WINDOW];     /* a frame that goes over the end of the ring */
    KWS_ALIGNED int8_t verifier_input[KWS_VERIFIER_INPUTS];
#endif
} kws_detector;

/* Start a stream now. The sensitivity is KWS_LOW, KWS_NORMAL or KWS_HIGH. */
kws_status kws_detect_start(kws_detector *detector, int sensitivity);

/* Take a threshold from 1 to 10000 in place of the sensitivity's: the lowest mean score of a detection, times 10000. */
kws_status kws_set_threshold(kws_detector *detector, int32_t threshold);

/* From now on detect other words only for `milliseconds` after the word of wake_label; 0 detects all at all times. */
kws_status kws_detect_after(kws_detector *detector, int wake_label, int32_t milliseconds);

/* Take the next samples, any number of them. KWS_DETECTED if detections wait for kws_next. */
kws_status kws_push(kws_detector *detector, const int16_t *samples, int32_t count);

/* Take the oldest detection that waits: KWS_DETECTED, and it is in *found; KWS_OK if there is none. If more than
 * KWS_WAITING wait, the oldest are forgotten; each needs its refractory time, a second unless the model says other. */
kws_status kws_next(kws_detector *detector, kws_detection *found);

/* Go on after a gap: `lost` samples did not arrive, or 0 if nobody knows how many. What was heard before no longer counts,
 * as words may be cut, so the next window is complete a clip of audio later. Detections that wait stay. */
kws_status kws_gap(kws_detector *detector, uint32_t lost);

#ifdef __cplusplus
}
#endif

#endif
