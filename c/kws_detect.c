/* Detections from the scores of windows: see kws_detect.h. */
#include "kws_detect.h"

#include <string.h>

void kws_detect_start(kws_detector *detector, int sensitivity) {
    memset(detector, 0, sizeof *detector);
    kws_stream_start(&detector->stream);
    detector->last = -KWS_REFRACTORY_S;
    detector->sensitivity = sensitivity;
}

/* The means over the latest windows, once another one's scores are known. */
static int smooth(kws_detector *detector, const int8_t scores[KWS_LABELS]) {
    int8_t *place = detector->recent[detector->windows % KWS_SMOOTHED];
    int full = detector->windows >= KWS_SMOOTHED;
    for (int i = 0; i < KWS_LABELS; i++) {
        if (full) detector->sums[i] -= place[i] - KWS_SCORE_ZERO;
        detector->sums[i] += scores[i] - KWS_SCORE_ZERO;
        place[i] = scores[i];
    }
    detector->windows++;
    return full ? KWS_SMOOTHED : (int)detector->windows;
}

int kws_detect(kws_detector *detector, const int16_t samples[KWS_STRIDE], kws_detection *found) {
    int8_t scores[KWS_LABELS];
    kws_stream_push(&detector->stream, samples);
    detector->strides++;
    /* The first window is complete after a clip of audio; further ones follow a hop apart. */
    if (detector->strides < KWS_CLIP_STRIDES) return 0;
    if ((detector->strides - KWS_CLIP_STRIDES) % KWS_HOP_STRIDES) return 0;
    kws_classify(detector->stream.input, scores);
    int count = smooth(detector, scores), best = 0;
    for (int i = 1; i < KWS_LABELS; i++)
        if (detector->sums[i] > detector->sums[best]) best = i;

    /* In double precision and in this order as on the PC, so that no detection depends on the rounding. */
    double mean = detector->sums[best] * (double)KWS_SCORE_SCALE / count;
    double seconds = (detector->windows - 1) * KWS_HOP_S + KWS_CLIP_S / 2 - (count - 1) * KWS_HOP_S / 2;
    if (best < KWS_FIRST_WORD || mean < kws_thresholds[detector->sensitivity][best - KWS_FIRST_WORD]) return 0;
    if (seconds - detector->last < KWS_REFRACTORY_S) return 0;
    detector->last = seconds;
    found->seconds = seconds;
    found->label = best;
    found->score = (float)mean;
    return 1;
}
