/* Keyword spotting: from 16-bit PCM to a score for each label.
 *
 * kws_model.h and kws_model.c hold one model, written by export_c.py; nothing here allocates memory. All that changes
 * lies in the kws_stream that functions are given, so tasks with a stream each may call them at the same time. */
#ifndef KWS_H
#define KWS_H

#include <stdint.h>

#include "kws_model.h"

#ifdef __cplusplus
extern "C" {
#endif

#define KWS_INPUTS (KWS_FRAMES * KWS_COEFFICIENTS)
/* Samples that a frame shares with the one before. */
#if KWS_WINDOW > KWS_STRIDE
#define KWS_SHARED (KWS_WINDOW - KWS_STRIDE)
#else
#define KWS_SHARED 0
#endif

/* Values stay in registers only if functions are inlined, which compilers avoid with -Os. */
#ifdef __GNUC__
#define KWS_INLINE static inline __attribute__((always_inline))
#define KWS_ALIGNED __attribute__((aligned(4)))
#else
#define KWS_INLINE static inline
#define KWS_ALIGNED
#endif

/* How sums of products are computed: with Helium, with the DSP extension, or else in plain C. */
#ifndef KWS_PLAIN_C
#if defined(__ARM_FEATURE_MVE) && (__ARM_FEATURE_MVE & 2) /* with floating-point numbers */
#define KWS_HELIUM
#elif defined(__ARM_FEATURE_DSP) && !defined(__ARM_BIG_ENDIAN)
#define KWS_DSP
#endif
#endif

/* Whether packed weights are looked up in tables made for each layer (kws_packed.h). Compilers that do not optimise
 * leave too few registers for the assembler of the DSP extension. */
#if KWS_PACKED && (defined(KWS_HELIUM) || (defined(KWS_DSP) && defined(__OPTIMIZE__)))
#define KWS_TABLES
#endif

/* Numbers of the features: float, or integers for processors without a floating-point unit (export_c.py
 * --fixed_point). Features then count steps of 2^-16. */
#if KWS_FIXED_POINT
typedef int32_t kws_feature;
typedef int16_t kws_factor;  /* in tables */
typedef uint16_t kws_weight; /* in tables without negative values */
#else
typedef float kws_feature, kws_factor, kws_weight;
#endif

typedef struct {
    kws_feature real, imaginary;
} kws_complex;

/* With CMSIS-NN a stream has another size. These names keep a program that was compiled without it from linking. */
#ifdef KWS_CMSIS_NN
#define kws_detect_start kws_detect_start_with_cmsis_nn
#define kws_stream_start kws_stream_start_with_cmsis_nn
#define kws_classify kws_classify_with_cmsis_nn
#endif

/* What functions compute in; nothing in it is kept between calls. The FFT and the layers never run at once. Its size
 * follows from the model, the processor and KWS_CMSIS_NN alone, so that a program may be compiled with other options
 * than these files. */
typedef union {
    kws_complex spectrum[KWS_FFT / 2];
    struct {
#ifdef KWS_CMSIS_NN
#ifdef __ARM_FEATURE_MVE
        KWS_ALIGNED int8_t scratch[KWS_SCRATCH_HELIUM];
#else
        KWS_ALIGNED int8_t scratch[KWS_SCRATCH];
#endif
        int32_t multipliers[KWS_SCALES], shifts[KWS_SCALES];
#elif defined(__ARM_FEATURE_DSP)
        uint32_t inputs_of_16[KWS_WIDE]; /* of 16 bits each, as SMLAD takes them */
#endif
#if KWS_PACKED && defined(__ARM_FEATURE_MVE)
        int8_t values[KWS_INDICES_4 ? 512 : 256], inputs[KWS_PAIRS / 16 * 32 + 32];
#elif KWS_PACKED && defined(__ARM_FEATURE_DSP)
        uint32_t pairs[1 << 2 * KWS_PACKED], inputs[KWS_PAIRS]; /* of 16 bits each, as SMLAD takes them */
#endif
        KWS_ALIGNED int8_t even[KWS_EVEN]; /* a layer reads one and writes the other */
        KWS_ALIGNED int8_t odd[KWS_ODD];
#ifndef KWS_CMSIS_NN
        KWS_ALIGNED int8_t patch[KWS_PATCH]; /* the values under a kernel, or those beyond the edges */
#endif
    } layers;
} kws_work;

/* A stream: the latest clip as the model's input, and the latest frame if frames overlap. If the network computes a
 * stream frame by frame, each layer keeps the inputs of its next output instead: KWS_STREAMING bytes, else 0. */
typedef struct {
#if KWS_STREAMING
    KWS_ALIGNED int8_t kept[KWS_STREAMING]; /* layer after layer, from old to new */
    int16_t count[KWS_LAYERS];              /* of places in time that each layer keeps */
    int8_t scores[KWS_LABELS];              /* the latest */
#else
    KWS_ALIGNED int8_t input[KWS_INPUTS];
#endif
    KWS_ALIGNED int16_t frame[KWS_SHARED ? KWS_WINDOW : 1];
    kws_work work;
} kws_stream;

/* Compute the features of one frame of KWS_WINDOW samples: MFCCs, or log-mel energies if KWS_DCT is 0. */
void kws_mfcc(kws_stream *stream, const int16_t *samples, kws_feature coefficients[KWS_COEFFICIENTS]);

/* Compute the model's input from a clip of KWS_CLIP samples. */
void kws_features(kws_stream *stream, const int16_t *samples, int8_t input[KWS_INPUTS]);

/* Start a stream, with a clip of silence. */
void kws_stream_start(kws_stream *stream);

/* Take the next KWS_STRIDE samples: a new frame is computed, and the oldest one goes. */
void kws_stream_push(kws_stream *stream, const int16_t samples[KWS_STRIDE]);

/* The same with the features of the new frame, if something else computes them. */
void kws_stream_push_mfcc(kws_stream *stream, const kws_feature coefficients[KWS_COEFFICIENTS]);

/* Get the scores of the stream's latest clip, as kws_classify computes them. With KWS_STREAMING they are ready, and of
 * the latest clip that began a multiple of the network's strides after the stream's first one. */
void kws_stream_scores(kws_stream *stream, int8_t scores[KWS_LABELS]);

/* Compute the scores of an input. A score stands for the probability (score - KWS_SCORE_ZERO) * KWS_SCORE_SCALE. With
 * KWS_STREAMING the network takes the input frame by frame, and what it kept of the stream is lost. */
void kws_classify(kws_stream *stream, const int8_t input[KWS_INPUTS], int8_t scores[KWS_LABELS]);

/* Return the index of the highest score; its name is kws_labels[index]. */
int kws_best(const int8_t scores[KWS_LABELS]);

#if KWS_VERIFIER
/* The verifier: a second network for the same labels. kws_detect.c asks it before it reports a detection. */
#define KWS_VERIFIER_INPUTS (KWS_VERIFIER_FRAMES * KWS_VERIFIER_COEFFICIENTS)

/* Compute a frame of its input from KWS_WINDOW samples; frames begin KWS_VERIFIER_STRIDE samples apart. */
void kws_verifier_frame(kws_stream *stream, const int16_t samples[KWS_WINDOW],
                        int8_t input[KWS_VERIFIER_COEFFICIENTS]);

/* Compute its scores, as kws_classify does. */
void kws_verifier_classify(kws_stream *stream, const int8_t input[KWS_VERIFIER_INPUTS], int8_t scores[KWS_LABELS]);
#endif

/* ---- for the module itself ---- */

#if KWS_STREAMING
/* Compute what follows from a new frame, which lies after those that layer 0 keeps. */
void kws_stream_compute(kws_stream *stream);
#endif

/* ---- the model, in kws_model.c ---- */

/* Values of a layer are [height][width][channels]. */
typedef struct {
    int height, width, channels; /* frames, coefficients, channels */
} kws_shape;

enum { KWS_FULLY_CONNECTED, KWS_CONVOLUTION, KWS_DEPTHWISE, KWS_AVERAGE };

/* Weights as indices into a table of values: see kws_packed.h. */
typedef struct {
    int bits; /* of an index */
    const void *words;
    const uint8_t *tops;
    const int8_t *values;
} kws_packed;

/* A layer in the arithmetic of TFLite's quantization specification, with weights whose zero point is 0:
 * https://ai.google.dev/edge/litert/models/quantization_spec, and Jacob et al., arXiv:1712.05877, section 2. */
typedef struct {
    int kind;
    const int8_t *weights;    /* [outputs][kernel height, width, channels, zeros up to a whole word but for CMSIS-NN];
                                 depthwise [inputs][outputs] */
    const int32_t *bias;      /* [outputs]; includes -zero point * sum of weights, so that inputs need no subtraction;
                                 not so in padded layers for CMSIS-NN, which subtracts it */
    const float *scales;      /* steps of the output in a step of the sum: [outputs], or [1] if scale_step is 0 */
    const kws_packed *packed; /* in place of weights, or 0 */
    int scale_step;
    int inputs, outputs; /* at one place: values in a sum, and number of sums */
    int32_t input_zero; /* beyond the edges of padded layers, else 0 */
    int32_t output_zero;
    int32_t output_min; /* output_zero with ReLU, else -128 */
    kws_shape from, to;
    int kernel_height, kernel_width, stride_height, stride_width, pad_top, pad_left;
} kws_layer;

extern const char *const kws_labels[KWS_LABELS];
extern const int16_t kws_thresholds[3]; /* low, normal, high sensitivity, in 1/10000: see kws_detect.h */
extern const kws_layer kws_layers[KWS_LAYERS];
extern const float kws_softmax[256]; /* exp(-distance to the highest score) */
#if KWS_VERIFIER
extern const kws_layer kws_verifier_layers[KWS_VERIFIER_LAYERS];
extern const float kws_verifier_softmax[256];
#endif
extern const kws_weight kws_window[KWS_WINDOW];      /* float: for samples of -32768..32767, and halved */
extern const kws_factor kws_twiddle[KWS_FFT / 2][2]; /* cosine and sine of 2 pi k / KWS_FFT */
/* The mel filters, by bins of the spectrum from KWS_FIRST_BIN up. Triangles overlap only with their neighbours: a bin
 * counts in one channel with its first weight, and in the channel above with its second. Bins from kws_mel_ends[i] to
 * before kws_mel_ends[i + 1] count in channels i and i + 1. In fixed point there is the second weight alone: the first is
 * what is left to 1. */
#if KWS_FIXED_POINT
extern const kws_weight kws_mel_weights[KWS_BINS];
#else
extern const kws_weight kws_mel_weights[KWS_BINS][2];
#endif
extern const int16_t kws_mel_ends[KWS_MEL_CHANNELS + 1];
#if KWS_DCT_ROWS
extern const kws_factor kws_dct[KWS_DCT_ROWS][KWS_MEL_CHANNELS / 2]; /* the lower channels; the others follow */
#endif

#if KWS_FIXED_POINT
extern const kws_weight kws_logarithms[129]; /* of 1, 1 + 1/128 to 2, in 2^-16 */
#endif

#ifdef __cplusplus
}
#endif

#endif
