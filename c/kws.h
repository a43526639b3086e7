/* Keyword spotting: from 16-bit PCM to a score for each label.
 *
 * kws_model.h and kws_model.c hold one model, written by export_c.py; nothing here allocates memory. The
 * functions share one working buffer, so only one thread may use them. */
#ifndef KWS_H
#define KWS_H

#include <stdint.h>

#include "kws_model.h"

#define KWS_INPUTS (KWS_FRAMES * KWS_COEFFICIENTS)
/* Samples that a frame shares with the one before; arrays of them are never empty. */
#define KWS_SHARED (KWS_WINDOW > KWS_STRIDE ? KWS_WINDOW - KWS_STRIDE : 0)

/* What streaming keeps: the latest clip as the model's input, and samples that the next frame needs again. */
typedef struct {
    int8_t input[KWS_INPUTS];
    int16_t shared[KWS_SHARED + (KWS_SHARED == 0)];
} kws_stream;

/* MFCCs of one frame of KWS_WINDOW samples. */
void kws_mfcc(const int16_t *samples, float coefficients[KWS_COEFFICIENTS]);

/* The model's input from a clip of KWS_CLIP samples. */
void kws_features(const int16_t *samples, int8_t input[KWS_INPUTS]);

/* Begin with silence. */
void kws_stream_start(kws_stream *stream);

/* Hear the next KWS_STRIDE samples: the oldest frame goes, and a new one is computed. */
void kws_stream_push(kws_stream *stream, const int16_t samples[KWS_STRIDE]);

/* The same with the MFCCs of a new frame, where something else computes them. */
void kws_stream_push_mfcc(kws_stream *stream, const float coefficients[KWS_COEFFICIENTS]);

/* Scores from input. Scores are probabilities: (score - KWS_SCORE_ZERO) * KWS_SCORE_SCALE. */
void kws_classify(const int8_t input[KWS_INPUTS], int8_t scores[KWS_LABELS]);

/* Index of the highest score; its name is kws_labels[index]. */
int kws_best(const int8_t scores[KWS_LABELS]);

/* ---- the model, in kws_model.c ---- */

/* A fully connected layer in the arithmetic of TFLite (see kws_nn.c). */
typedef struct {
    const int8_t *weights; /* [outputs][inputs] */
    const int32_t *bias;   /* what the zero point of the input adds to sums is taken off */
    int inputs, outputs;
    int32_t output_zero;
    int32_t multiplier; /* of sums, times 2^31 */
    int shift;          /* to the left, where negative to the right */
    int32_t lowest;     /* output: with ReLU the one that means zero */
} kws_layer;

/* A bin of the spectrum goes into a mel channel, and into the one above it. */
typedef struct {
    float into, above;
    int8_t channel;
} kws_bin;

extern const char *const kws_labels[KWS_LABELS];
extern const kws_layer kws_layers[KWS_LAYERS];
extern const float kws_softmax[256];                           /* exp(-distance to the highest score) */
extern const float kws_window[KWS_WINDOW];                     /* for samples of -32768..32767 */
extern const float kws_twiddle[KWS_FFT / 2][2];                /* cosine and sine of 2 pi k / KWS_FFT */
extern const kws_bin kws_bins[KWS_BINS];                       /* from bin 1 up */
extern const float kws_dct[KWS_COEFFICIENTS][KWS_MEL_CHANNELS];

#endif
