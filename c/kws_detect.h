/* Detect words in an endless stream, at the same times as kws/detect/streaming.py on the PC.
 *
 * Scores of the latest windows are averaged. A word is detected if its mean is the highest of all labels and
 * reaches the threshold, unless something was detected less than the refractory time ago (as in P. Warden,
 * arXiv:1804.03209, section 7). Hop, smoothing, refractory time and thresholds are the model's own.
 *
 * With a verifier, a word whose mean reaches KWS_GATE is detected if the verifier's mean score of it, over the same
 * windows, reaches the threshold (kws/detect/verifier.py). The verifier classifies these windows within one call of
 * kws_detect, so the microphone must go on recording meanwhile. */
#ifndef KWS_DETECT_H
#define KWS_DETECT_H

#include "kws.h"

#ifdef __cplusplus
extern "C" {
#endif

#if KWS_VERIFIER
/* Samples that are kept for the verifier: all windows whose scores are averaged. */
#define KWS_AUDIO ((KWS_CLIP_STRIDES + (KWS_SMOOTHED - 1) * KWS_HOP_STRIDES) * KWS_STRIDE)
#endif

enum { KWS_LOW, KWS_NORMAL, KWS_HIGH }; /* sensitivities: few false alarms ... few misses */

typedef struct {
    double seconds; /* since the start, to the middle of the windows that were averaged */
    int label;      /* its name is kws_labels[label] */
    float score;    /* mean, 0 to 1 */
} kws_detection;

typedef struct {
    kws_stream stream;
    int8_t recent[KWS_SMOOTHED][KWS_LABELS]; /* scores of the latest windows, a ring */
    int32_t sums[KWS_LABELS];                /* their sums, less KWS_SCORE_ZERO each */
    uint64_t strides, windows;               /* received, and classified; 32 bits would last for 5 years */
    double last;                             /* time of the last detection, in seconds */
    int wake_label;                          /* 0 for none: see kws_detect_after */
    double listen, awake_until;              /* seconds */
    int sensitivity;
#if KWS_VERIFIER
    int16_t audio[KWS_AUDIO]; /* the latest samples, a ring */
    int32_t next;             /* place of the next sample in it */
    int16_t frame[KWS_WINDOW]; /* a frame that goes over the end of the ring */
    int8_t again[KWS_SMOOTHED][KWS_LABELS]; /* the verifier's scores of the latest windows, a ring */
    uint8_t known[KWS_SMOOTHED];            /* whether the verifier has scored them */
    int8_t verifier_input[KWS_VERIFIER_INPUTS];
    uint64_t after_input; /* number of the window after the one in verifier_input */
#endif
} kws_detector;

/* Start a stream now. The sensitivity is KWS_LOW, KWS_NORMAL or KWS_HIGH. */
void kws_detect_start(kws_detector *detector, int sensitivity);

/* From now on detect other words only for `milliseconds` after the word of wake_label; 0 detects all at all times. */
void kws_detect_after(kws_detector *detector, int wake_label, int milliseconds);

/* Process the next KWS_STRIDE samples. Returns whether a word was detected, and writes it to *found. */
int kws_detect(kws_detector *detector, const int16_t samples[KWS_STRIDE], kws_detection *found);

#ifdef __cplusplus
}
#endif

#endif
