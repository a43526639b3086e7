/* Words in an endless stream: what kws/detect/streaming.py detects on the PC, at the same times.
 *
 * Scores of the latest windows are averaged. A word is detected if its mean is the highest of all labels and
 * reaches the threshold, unless something was detected less than the refractory time ago (as in P. Warden,
 * arXiv:1804.03209, section 7). Hop, smoothing, refractory time and thresholds are the model's own.
 *
 * With a verifier, a word whose mean reaches KWS_GATE is detected where the verifier's mean score of it, over the same
 * windows, reaches the threshold (kws/detect/verifier.py). It classifies them in that one call of kws_detect, so that a
 * microphone must go on recording meanwhile. */
#ifndef KWS_DETECT_H
#define KWS_DETECT_H

#include "kws.h"

#ifdef __cplusplus
extern "C" {
#endif

#if KWS_VERIFIER
/* Samples that the verifier may look back on: the windows whose scores are averaged. */
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
    int32_t sums[KWS_LABELS];                /* of them, above KWS_SCORE_ZERO */
    uint32_t strides, windows;               /* received, and classified */
    double last;                             /* seconds of the last detection */
    int wake_label;                          /* 0 for none: see kws_detect_after */
    double listen, awake_until;              /* seconds */
    int sensitivity;
#if KWS_VERIFIER
    int16_t audio[KWS_AUDIO]; /* the latest, a ring */
    int32_t next;             /* place of the next sample in it */
    int8_t again[KWS_SMOOTHED][KWS_LABELS]; /* the verifier's scores of the latest windows, a ring */
    uint8_t known[KWS_SMOOTHED];            /* whether it has scored them */
    int8_t verifier_input[KWS_VERIFIER_INPUTS];
    uint32_t after_input; /* number of the window after that of the input */
#endif
} kws_detector;

/* Reset: the stream starts now. The sensitivity is one of those above. */
void kws_detect_start(kws_detector *detector, int sensitivity);

/* From now on detect other words only for so long after the one of that label; 0 for all at all times. */
void kws_detect_after(kws_detector *detector, int wake_label, int milliseconds);

/* Process the next KWS_STRIDE samples. Returns whether a word was detected, and what, in *found. */
int kws_detect(kws_detector *detector, const int16_t samples[KWS_STRIDE], kws_detection *found);

#ifdef __cplusplus
}
#endif

#endif
