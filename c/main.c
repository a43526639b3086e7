/* Check the module against the PC's figures, or classify recordings.
 *
 *   kws            checks the clips of kws_vectors.c: input within one step, scores bit for bit
 *   kws FILE...    names what is said in files of 16-bit little-endian mono PCM at KWS_SAMPLE_RATE Hz, raw or WAV
 *   kws -          prints the words detected in such samples on standard input, as they come
 *   kws - WORD MS  the same, but other words only for MS milliseconds after WORD */
#include "kws_detect.h"
#include "kws_vectors.h"

#ifndef ARDUINO /* a sketch has setup and loop instead */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HEADER 44 /* bytes of a WAV file before its samples, if it has nothing else */
/* samples of silence behind a recording, in which a word at its end is detected, as in label_wav.py */
#define SILENCE (3 * KWS_CLIP / 4)

static void print_label(const char *name, const int8_t scores[KWS_LABELS]) {
    int best = kws_best(scores);
    int percent = (int)(100 * (float)(scores[best] - KWS_SCORE_ZERO) * KWS_SCORE_SCALE + 0.5f);
    printf("%s: %s %d %%\n", name, kws_labels[best], percent);
}

static int furthest_apart(const int8_t *one, const int8_t *other, int count) {
    int furthest = 0;
    for (int i = 0; i < count; i++) {
        int distance = abs(one[i] - other[i]);
        if (distance > furthest) furthest = distance;
    }
    return furthest;
}

static int check(const kws_vector *vector) {
    static kws_stream stream;
    int8_t input[KWS_INPUTS], scores[KWS_LABELS];
    kws_features(&stream, vector->samples, input);
    int furthest = furthest_apart(input, vector->input, KWS_INPUTS);
    int same_stream = 1;
    /* A stream's first clip has the frames of this one, if they begin with its first sample. */
    if ((KWS_CLIP_STRIDES - KWS_FRAMES) * KWS_STRIDE == KWS_SHARED) {
        int8_t streamed[KWS_LABELS];
        kws_stream_start(&stream);
        for (int i = 0; i < KWS_CLIP_STRIDES; i++) kws_stream_push(&stream, vector->samples + i * KWS_STRIDE);
        kws_stream_scores(&stream, streamed);
        kws_classify(&stream, input, scores);
        same_stream = memcmp(streamed, scores, sizeof scores) == 0;
#if !KWS_STREAMING
        same_stream &= memcmp(stream.input, input, sizeof input) == 0;
#endif
    }
    kws_classify(&stream, vector->input, scores);
    int same_scores = memcmp(scores, vector->scores, sizeof scores) == 0;
    print_label(vector->name, scores);
#if KWS_VERIFIER
    static int8_t verifier_input[KWS_VERIFIER_INPUTS];
    for (int i = 0; i < KWS_VERIFIER_FRAMES; i++) {
        int8_t *frame = verifier_input + i * KWS_VERIFIER_COEFFICIENTS;
        kws_verifier_frame(&stream, vector->samples + i * KWS_VERIFIER_STRIDE, frame);
    }
    const int distance = furthest_apart(verifier_input, vector->verifier_input, KWS_VERIFIER_INPUTS);
    if (distance > furthest) furthest = distance;
    kws_verifier_classify(&stream, vector->verifier_input, scores);
    same_scores &= memcmp(scores, vector->verifier_scores, sizeof scores) == 0;
#endif
    if (furthest > 1) printf("  features differ by %d steps\n", furthest);
    if (!same_scores) printf("  scores differ\n");
    if (!same_stream) printf("  streaming differs\n");
    return furthest <= 1 && same_scores && same_stream;
}

/* Return the bytes of a WAV file's header at the start of `bytes`, or 0; exit if its samples do not fit. */
static size_t header_size(const char *name, const unsigned char bytes[HEADER]) {
    if (memcmp(bytes, "RIFF", 4) != 0) return 0;
    const long rate = bytes[24] | bytes[25] << 8 | (long)bytes[26] << 16;
    const int fits = bytes[20] == 1 && bytes[22] == 1 && bytes[34] == 16; /* PCM, mono, 16 bits */
    if (fits && rate == KWS_SAMPLE_RATE && memcmp(bytes + 36, "data", 4) == 0) return HEADER;
    fprintf(stderr, "%s: WAV files have to be 16-bit mono at %d Hz, with the plain header of %d bytes\n", name,
            KWS_SAMPLE_RATE, HEADER);
    exit(2);
}

static int classify_file(const char *path) {
    static kws_stream stream;
    static unsigned char bytes[HEADER + 2 * KWS_CLIP];
    static int16_t samples[KWS_CLIP];
    int8_t input[KWS_INPUTS], scores[KWS_LABELS];
    FILE *file = fopen(path, "rb");
    if (!file) {
        perror(path);
        return 0;
    }
    size_t count = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    memset(bytes + count, 0, sizeof bytes - count);
    const unsigned char *pcm = bytes + header_size(path, bytes);
    for (int i = 0; i < KWS_CLIP; i++) samples[i] = (int16_t)(pcm[2 * i] | pcm[2 * i + 1] << 8);
    kws_features(&stream, samples, input);
    kws_classify(&stream, input, scores);
    print_label(path, scores);
    return 1;
}

static int label_of(const char *word) {
    for (int i = KWS_FIRST_WORD; i < KWS_LABELS; i++)
        if (strcmp(word, kws_labels[i]) == 0) return i;
    fprintf(stderr, "%s is none of the words\n", word);
    exit(2);
}

static void print_detections(kws_detector *detector, const int16_t *samples, int32_t count) {
    kws_detection found;
    kws_push(detector, samples, count);
    while (kws_next(detector, &found) == KWS_DETECTED) {
        const double seconds = (double)found.sample / KWS_SAMPLE_RATE;
        printf("%.3f s  %s %.4f\n", seconds, kws_labels[found.label], (double)found.score);
        fflush(stdout);
    }
}

static int detect_in_standard_input(int wake_label, int listen_ms) {
    static kws_detector detector;
    static unsigned char bytes[HEADER + 2 * KWS_STRIDE];
    static int16_t samples[HEADER / 2 + KWS_STRIDE];
    kws_detect_start(&detector, KWS_NORMAL);
    if (kws_detect_after(&detector, wake_label, listen_ms) != KWS_OK) return 2;
    size_t count = fread(bytes, 2, HEADER / 2, stdin);
    if (header_size("standard input", bytes)) count = fread(bytes, 2, KWS_STRIDE, stdin);
    int32_t missing = KWS_CLIP; /* samples, to a whole clip */
    for (; count > 0; count = fread(bytes, 2, KWS_STRIDE, stdin)) {
        for (size_t i = 0; i < count; i++) samples[i] = (int16_t)(bytes[2 * i] | bytes[2 * i + 1] << 8);
        print_detections(&detector, samples, (int32_t)count);
        if (missing > 0) missing -= (int32_t)count;
    }
    memset(samples, 0, sizeof samples);
    for (int32_t left = missing > SILENCE ? missing : SILENCE; left > 0; left -= KWS_STRIDE)
        print_detections(&detector, samples, left < KWS_STRIDE ? left : KWS_STRIDE);
    return 0;
}

int main(int count, char **arguments) {
    int failed = 0;
    if (count > 1 && strcmp(arguments[1], "-") == 0) {
        return count == 4 ? detect_in_standard_input(label_of(arguments[2]), atoi(arguments[3]))
                          : detect_in_standard_input(0, 0);
    }
    for (int i = 1; i < count; i++) failed += !classify_file(arguments[i]);
    if (count > 1) return failed > 0;
    for (int i = 0; i < KWS_VECTORS; i++) failed += !check(&kws_vectors[i]);
    printf("%d of %d clips as on the PC\n", KWS_VECTORS - failed, KWS_VECTORS);
    return failed > 0;
}
#endif
