/* Detect words from the scores of windows: see kws_detect.h. */
#include "kws_detect.h"

#include <string.h>

/* Times are in halves of samples, as the middle of two windows may lie between samples. Differences of unsigned numbers
 * are right even if a time is before the start. */
#define HALVES(samples) (2 * (uint64_t)(samples))

/* Whether a detector was started: a threshold is never 0. */
static int is_started(const kws_detector *detector) { return detector && detector->threshold > 0; }

/* Forget what was heard, as at the start. */
static void forget(kws_detector *detector) {
    kws_stream_start(&detector->stream);
    memset(detector->sums, 0, sizeof detector->sums);
    detector->place = detector->windows = detector->samples = 0;
    detector->until_window = KWS_CLIP_STRIDES;
#if KWS_VERIFIER
    detector->asked_label = 0;
#endif
}

kws_status kws_detect_start(kws_detector *detector, int sensitivity) {
    if (!detector || sensitivity < KWS_LOW || sensitivity > KWS_HIGH) return KWS_BAD_ARGUMENT;
    memset(detector, 0, sizeof *detector);
    forget(detector);
    detector->last = 0 - HALVES(KWS_REFRACTORY);
    detector->threshold = kws_thresholds[sensitivity];
    return KWS_OK;
}

kws_status kws_set_threshold(kws_detector *detector, int32_t threshold) {
    if (!is_started(detector) || threshold < 1 || threshold > 10000) return KWS_BAD_ARGUMENT;
    detector->threshold = threshold;
    return KWS_OK;
}

kws_status kws_detect_after(kws_detector *detector, int wake_label, int32_t milliseconds) {
    const int is_word = wake_label >= KWS_FIRST_WORD && wake_label < KWS_LABELS;
    if (!is_started(detector) || (wake_label && !is_word) || milliseconds < 0) return KWS_BAD_ARGUMENT;
    detector->wake_label = wake_label;
    /* whole seconds apart, so that small processors need no division of 64 bits */
    detector->listen = HALVES(milliseconds / 1000) * KWS_SAMPLE_RATE;
    detector->listen += HALVES(milliseconds % 1000 * KWS_SAMPLE_RATE / 1000);
    detector->awake_until = 0;
    return KWS_OK;
}

kws_status kws_gap(kws_detector *detector, uint32_t lost) {
    if (!is_started(detector)) return KWS_BAD_ARGUMENT;
    detector->received += (uint64_t)detector->samples + lost;
    forget(detector);
    return KWS_OK;
}

/* Add the scores of a window to the sums over the latest windows. */
static void smooth(kws_detector *detector, const int8_t scores[KWS_LABELS]) {
    int8_t *place = detector->recent[detector->place];
    const int full = detector->windows == KWS_SMOOTHED;
    for (int i = 0; i < KWS_LABELS; i++) {
        if (full) detector->sums[i] -= place[i] - KWS_SCORE_ZERO;
        detector->sums[i] += scores[i] - KWS_SCORE_ZERO;
        place[i] = scores[i];
    }
    detector->place = (detector->place + 1) % KWS_SMOOTHED;
    if (!full) detector->windows++;
}

/* Return whether the mean of `count` scores reaches a threshold in 1/10000. Without a division nothing is rounded. */
static int reaches(int32_t sum, int32_t count, int32_t threshold) {
    return sum * 10000 >= threshold * KWS_SCORE_STEPS * count;
}

#if KWS_VERIFIER
/* Return frame i of the newest window; a copy, if it goes over the end of the ring. */
static const int16_t *frame_at(kws_detector *detector, int i) {
    const int32_t begin = (detector->next + i * KWS_VERIFIER_STRIDE) % KWS_CLIP_AUDIO, count = KWS_CLIP_AUDIO - begin;
    if (count >= KWS_WINDOW) return detector->audio + begin;
    memcpy(detector->frame, detector->audio + begin, (size_t)count * sizeof *detector->frame);
    memcpy(detector->frame + count, detector->audio, (size_t)(KWS_WINDOW - count) * sizeof *detector->frame);
    return detector->frame;
}

/* Return the verifier's score of a label in the newest window. The first `shared` frames are the latest of the window
 * that was scored before. */
static int32_t score_again(kws_detector *detector, int label, int shared) {
    int8_t *input = detector->verifier_input, scores[KWS_LABELS];
    const int kept = shared * KWS_VERIFIER_COEFFICIENTS;
    memmove(input, input + KWS_VERIFIER_INPUTS - kept, (size_t)kept);
    for (int i = shared; i < KWS_VERIFIER_FRAMES; i++) {
        kws_verifier_frame(&detector->stream, frame_at(detector, i), input + i * KWS_VERIFIER_COEFFICIENTS);
    }
    kws_verifier_classify(&detector->stream, input, scores);
    return scores[label] - KWS_SCORE_ZERO;
}

/* Ask the verifier if it is time. Returns the sum of its latest KWS_ASK_MEAN scores, or -1. */
static int32_t ask(kws_detector *detector, int label) {
    if (detector->asked == KWS_ASK_MOST) return -1;
    if (detector->wait > 0) {
        detector->wait--;
        return -1;
    }
    const int32_t answer = score_again(detector, label, detector->asked ? KWS_VERIFIER_SHARED : 0);
    detector->wait = KWS_ASK_EVERY - 1;
    detector->answers[detector->asked++ % KWS_ASK_MEAN] = answer;
    if (detector->asked < KWS_ASK_MEAN) return -1;
    int32_t sum = 0;
    for (int i = 0; i < KWS_ASK_MEAN; i++) sum += detector->answers[i];
    return sum;
}
#endif

/* Add a detection to those that wait; the oldest goes if there are too many. */
static void report(kws_detector *detector, uint64_t now, int label, int32_t sum, int32_t count) {
    if (detector->waiting == KWS_WAITING) {
        memmove(detector->found, detector->found + 1, (KWS_WAITING - 1) * sizeof *detector->found);
        detector->waiting--;
    }
    kws_detection *found = &detector->found[detector->waiting++];
    found->sample = now / 2;
    found->label = label;
    found->score = (float)sum / (float)(count * KWS_SCORE_STEPS);
    detector->last = now;
    if (label == detector->wake_label) detector->awake_until = now + detector->listen;
}

/* Decide about the window that is complete now. */
static void decide(kws_detector *detector) {
    const int32_t *sums = detector->sums;
    int32_t count = detector->windows;
    int best = 0;
    for (int i = 1; i < KWS_LABELS; i++)
        if (sums[i] > sums[best]) best = i;
    int32_t sum = sums[best];
#if KWS_VERIFIER
    if (best < KWS_FIRST_WORD || !reaches(sum, count, KWS_GATE)) best = 0;
    if (best != detector->asked_label) detector->asked = detector->wait = 0;
    detector->asked_label = best;
#endif
    if (best < KWS_FIRST_WORD) return;

    /* the middle of the windows that were averaged */
    const uint64_t begin = detector->received - KWS_CLIP_AUDIO;
    const uint64_t now = HALVES(begin) + KWS_CLIP - (uint64_t)(count - 1) * KWS_HOP_STRIDES * KWS_STRIDE;
    if (now - detector->last < HALVES(KWS_REFRACTORY)) return;
    if (detector->wake_label && best != detector->wake_label && now > detector->awake_until) return;
#if KWS_VERIFIER
    sum = ask(detector, best);
    count = KWS_ASK_MEAN;
#endif
    if (!reaches(sum, count, detector->threshold)) return;
#if KWS_VERIFIER
    detector->asked = KWS_ASK_MOST;
#endif
    report(detector, now, best, sum, count);
}

/* Take KWS_STRIDE samples. */
static void take_stride(kws_detector *detector, const int16_t samples[KWS_STRIDE]) {
    int8_t scores[KWS_LABELS];
    kws_stream_push(&detector->stream, samples);
#if KWS_VERIFIER
    memcpy(detector->audio + detector->next, samples, KWS_STRIDE * sizeof *samples);
    detector->next = (detector->next + KWS_STRIDE) % KWS_CLIP_AUDIO;
#endif
    detector->received += KWS_STRIDE;
    /* The first window is complete after a clip of audio; further ones follow a hop apart. */
    if (--detector->until_window > 0) return;
    detector->until_window = KWS_HOP_STRIDES;
    kws_stream_scores(&detector->stream, scores);
    smooth(detector, scores);
    decide(detector);
}

kws_status kws_push(kws_detector *detector, const int16_t *samples, int32_t count) {
    if (!is_started(detector) || count < 0 || (count && !samples)) return KWS_BAD_ARGUMENT;
    while (count > 0) {
        if (detector->samples == 0 && count >= KWS_STRIDE) { /* no copy is needed */
            take_stride(detector, samples);
            samples += KWS_STRIDE, count -= KWS_STRIDE;
            continue;
        }
        const int32_t room = KWS_STRIDE - detector->samples, part = count < room ? count : room;
        memcpy(detector->stride + detector->samples, samples, (size_t)part * sizeof *samples);
        detector->samples += part;
        samples += part, count -= part;
        if (detector->samples < KWS_STRIDE) break;
        detector->samples = 0;
        take_stride(detector, detector->stride);
    }
    return detector->waiting ? KWS_DETECTED : KWS_OK;
}

kws_status kws_next(kws_detector *detector, kws_detection *found) {
    if (!is_started(detector) || !found) return KWS_BAD_ARGUMENT;
    if (detector->waiting == 0) return KWS_OK;
    *found = detector->found[0];
    detector->waiting--;
    memmove(detector->found, detector->found + 1, (size_t)detector->waiting * sizeof *found);
    return KWS_DETECTED;
}
