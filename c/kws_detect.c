/* Detect words from the scores of windows: see kws_detect.h. */
#include "kws_detect.h"

#include <string.h>

void kws_detect_start(kws_detector *detector, int sensitivity) {
    memset(detector, 0, sizeof *detector);
    kws_stream_start(&detector->stream);
    detector->last = -KWS_REFRACTORY_S;
    detector->sensitivity = sensitivity;
#if KWS_VERIFIER
    detector->after_input = UINT64_MAX;
#endif
}

void kws_detect_after(kws_detector *detector, int wake_label, int milliseconds) {
    detector->wake_label = wake_label;
    detector->listen = milliseconds / 1000.0;
    detector->awake_until = 0;
}

/* Add the scores of a window to the sums over the latest windows. Returns how many windows these are. */
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

#if KWS_VERIFIER
/* Return the frame that begins `back` samples ago; a copy, if it goes over the end of the ring. */
static const int16_t *frame_at(kws_detector *detector, int32_t back) {
    int16_t *frame = detector->frame;
    const int32_t begin = (detector->next + KWS_AUDIO - back) % KWS_AUDIO, count = KWS_AUDIO - begin;
    if (count >= KWS_WINDOW) return detector->audio + begin;
    memcpy(frame, detector->audio + begin, (size_t)count * sizeof *frame);
    memcpy(frame + count, detector->audio, (size_t)(KWS_WINDOW - count) * sizeof *frame);
    return frame;
}

static float mean_score(int32_t sum, int count) { return (float)sum * KWS_SCORE_SCALE / (float)count; }

/* Compute the verifier's scores of the window that began `begin` samples ago. */
static void score_again(kws_detector *detector, uint64_t window, int32_t begin) {
    int8_t *input = detector->verifier_input;
    const int shared = window == detector->after_input ? KWS_VERIFIER_SHARED : 0; /* frames with the one before */
    const int kept = shared * KWS_VERIFIER_COEFFICIENTS;
    memmove(input, input + KWS_VERIFIER_INPUTS - kept, (size_t)kept);
    for (int i = shared; i < KWS_VERIFIER_FRAMES; i++) {
        int8_t *frame = input + i * KWS_VERIFIER_COEFFICIENTS;
        kws_verifier_frame(&detector->stream, frame_at(detector, begin - i * KWS_VERIFIER_STRIDE), frame);
    }
    detector->after_input = window + 1;
    kws_verifier_classify(&detector->stream, input, detector->again[window % KWS_SMOOTHED]);
    detector->known[window % KWS_SMOOTHED] = 1;
}

/* Return the verifier's mean score of a label over the latest `count` windows, rounded as on the PC. If it cannot reach
 * `least` any more, the other windows are not computed, and 0 is returned. */
static float verifier_mean(kws_detector *detector, int label, int count, double least) {
    int32_t sum = 0;
    for (int back = count - 1; back >= 0; back--) { /* hops before the latest window */
        const uint64_t window = detector->windows - 1 - (uint64_t)back;
        if (!detector->known[window % KWS_SMOOTHED]) {
            score_again(detector, window, (KWS_CLIP_STRIDES + back * KWS_HOP_STRIDES) * KWS_STRIDE);
        }
        sum += detector->again[window % KWS_SMOOTHED][label] - KWS_SCORE_ZERO;
        if (mean_score(sum + back * (127 - KWS_SCORE_ZERO), count) < least) return 0;
    }
    return mean_score(sum, count);
}
#endif

int kws_detect(kws_detector *detector, const int16_t samples[KWS_STRIDE], kws_detection *found) {
    int8_t scores[KWS_LABELS];
    kws_stream_push(&detector->stream, samples);
#if KWS_VERIFIER
    memcpy(detector->audio + detector->next, samples, KWS_STRIDE * sizeof *samples);
    detector->next = (detector->next + KWS_STRIDE) % KWS_AUDIO;
#endif
    detector->strides++;
    /* The first window is complete after a clip of audio; further ones follow a hop apart. */
    if (detector->strides < KWS_CLIP_STRIDES) return 0;
    if ((detector->strides - KWS_CLIP_STRIDES) % KWS_HOP_STRIDES) return 0;
    kws_stream_scores(&detector->stream, scores);
    int count = smooth(detector, scores), best = 0;
#if KWS_VERIFIER
    detector->known[(detector->windows - 1) % KWS_SMOOTHED] = 0;
#endif
    for (int i = 1; i < KWS_LABELS; i++)
        if (detector->sums[i] > detector->sums[best]) best = i;

    /* In double precision and in this order, as on the PC, so that rounding cannot change a detection. */
    double mean = detector->sums[best] * (double)KWS_SCORE_SCALE / count;
    double seconds = (double)(detector->windows - 1) * KWS_HOP_S + KWS_CLIP_S / 2 - (count - 1) * KWS_HOP_S / 2;
    if (best < KWS_FIRST_WORD || seconds - detector->last < KWS_REFRACTORY_S) return 0;
    const int wakes = best == detector->wake_label;
    if (detector->wake_label && !wakes && seconds > detector->awake_until) return 0;
    const double least = kws_thresholds[detector->sensitivity];
#if KWS_VERIFIER
    if (mean < KWS_GATE) return 0;
    mean = verifier_mean(detector, best, count, least);
#endif
    if (mean < least) return 0;
    detector->last = seconds;
    if (wakes) detector->awake_until = seconds + detector->listen;
    found->seconds = seconds;
    found->label = best;
    found->score = (float)mean;
    return 1;
}
