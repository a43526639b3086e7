/* MFCCs as TensorFlow's AudioSpectrogram (magnitude_squared) and Mfcc operators define them; the same steps as
 * kws/features.py on the PC, with the tables of its mfcc_tables. (Despite the name magnitude_squared, Mfcc takes
 * the square root again: mel channels are sums of magnitudes.) */
#include <math.h>
#include <string.h>

#include "kws.h"

#define POINTS (KWS_FFT / 2) /* of the complex FFT that transforms KWS_FFT real values */
#define SMALLEST 1e-12f      /* floor of the logarithm, as in TensorFlow's Mfcc: digital silence has no energy */

/* Samples, then spectrum, in place to save RAM. Even samples are taken for real parts and odd ones for imaginary
 * parts, so that a complex FFT of half the length does for real samples. */
static float buffer[KWS_FFT];

static void swap(float *one, float *other) {
    float kept = *one;
    *one = *other;
    *other = kept;
}

/* Put the complex values of the buffer in the order of their bit-reversed indices, in which decimation in time
 * leaves its results in natural order. */
static void reverse_bits(void) {
    int reversed = 0;
    for (int i = 1; i < POINTS; i++) {
        int bit = POINTS >> 1;
        for (; reversed & bit; bit >>= 1) reversed ^= bit;
        reversed ^= bit;
        if (i < reversed) {
            swap(&buffer[2 * i], &buffer[2 * reversed]);
            swap(&buffer[2 * i + 1], &buffer[2 * reversed + 1]);
        }
    }
}

/* Complex FFT of the buffer, radix 2, decimation in time (Cooley and Tukey, Mathematics of Computation 19, 1965). */
static void transform(void) {
    reverse_bits();
    for (int half = 1; half < POINTS; half *= 2) {
        int step = POINTS / half; /* in the table, of angles of 2 pi / KWS_FFT */
        for (int k = 0; k < half; k++) {
            float cosine = kws_twiddle[k * step][0], sine = kws_twiddle[k * step][1];
            for (int i = k; i < POINTS; i += 2 * half) {
                float *low = &buffer[2 * i], *high = &buffer[2 * (i + half)];
                float real = high[0] * cosine + high[1] * sine;
                float imaginary = high[1] * cosine - high[0] * sine;
                high[0] = low[0] - real;
                high[1] = low[1] - imaginary;
                low[0] += real;
                low[1] += imaginary;
            }
        }
    }
}

/* Magnitude of bin k, 1 to POINTS - 1, of the spectrum of the real values.
 *
 * With Z the complex spectrum, those of the even and of the odd samples are E = (Z[k] + conj Z[POINTS - k]) / 2 and
 * O = (Z[k] - conj Z[POINTS - k]) / 2i, as spectra of real samples are symmetric; the whole is E + O exp(-2 pi i k /
 * KWS_FFT) (Press et al., Numerical Recipes, section 12.3: FFT of single real function). */
static float magnitude(int k) {
    const float *one = &buffer[2 * k], *other = &buffer[2 * (POINTS - k)];
    float even_real = 0.5f * (one[0] + other[0]), even_imaginary = 0.5f * (one[1] - other[1]);
    float odd_real = 0.5f * (one[1] + other[1]), odd_imaginary = 0.5f * (other[0] - one[0]);
    float cosine = kws_twiddle[k][0], sine = kws_twiddle[k][1];
    float real = even_real + odd_real * cosine + odd_imaginary * sine;
    float imaginary = even_imaginary + odd_imaginary * cosine - odd_real * sine;
    return sqrtf(real * real + imaginary * imaginary);
}

/* MFCCs of a frame whose first `count` samples are in `before`, the others in `samples`. */
static void mfcc(const int16_t *before, int count, const int16_t *samples, float *coefficients) {
    float mel[KWS_MEL_CHANNELS + 1] = {0};
    for (int i = 0; i < count; i++) buffer[i] = kws_window[i] * before[i];
    for (int i = count; i < KWS_WINDOW; i++) buffer[i] = kws_window[i] * samples[i - count];
    memset(&buffer[KWS_WINDOW], 0, (KWS_FFT - KWS_WINDOW) * sizeof(float));
    transform();
    for (int i = 0; i < KWS_BINS; i++) {
        const kws_bin *bin = &kws_bins[i];
        float loudness = magnitude(i + 1);
        mel[bin->channel] += bin->weight * loudness;
        mel[bin->channel + 1] += bin->weight_above * loudness;
    }
    for (int i = 0; i < KWS_MEL_CHANNELS; i++) mel[i] = logf(mel[i] > SMALLEST ? mel[i] : SMALLEST);
    for (int i = 0; i < KWS_COEFFICIENTS; i++) {
        coefficients[i] = 0;
        for (int j = 0; j < KWS_MEL_CHANNELS; j++) coefficients[i] += kws_dct[i][j] * mel[j];
    }
}

/* TFLite's affine quantization: value = scale * (quantized - zero point). What does not fit saturates. */
static void quantize(const float coefficients[KWS_COEFFICIENTS], int8_t *input) {
    for (int i = 0; i < KWS_COEFFICIENTS; i++) {
        float value = rintf(coefficients[i] / KWS_INPUT_SCALE) + KWS_INPUT_ZERO;
        input[i] = (int8_t)(value < -128 ? -128 : value > 127 ? 127 : value);
    }
}

void kws_mfcc(const int16_t *samples, float coefficients[KWS_COEFFICIENTS]) {
    mfcc(samples, 0, samples, coefficients);
}

void kws_features(const int16_t *samples, int8_t input[KWS_INPUTS]) {
    float coefficients[KWS_COEFFICIENTS];
    for (int i = 0; i < KWS_FRAMES; i++) {
        kws_mfcc(samples + i * KWS_STRIDE, coefficients);
        quantize(coefficients, input + i * KWS_COEFFICIENTS);
    }
}

void kws_stream_start(kws_stream *stream) {
    static const int16_t silence[KWS_STRIDE] = {0};
    memset(stream, 0, sizeof *stream);
    for (int i = 0; i < KWS_FRAMES; i++) kws_stream_push(stream, silence);
}

void kws_stream_push_mfcc(kws_stream *stream, const float coefficients[KWS_COEFFICIENTS]) {
    memmove(stream->input, stream->input + KWS_COEFFICIENTS, KWS_INPUTS - KWS_COEFFICIENTS);
    quantize(coefficients, stream->input + KWS_INPUTS - KWS_COEFFICIENTS);
}

void kws_stream_push(kws_stream *stream, const int16_t samples[KWS_STRIDE]) {
    float coefficients[KWS_COEFFICIENTS];
    int16_t *shared = stream->shared;
    mfcc(shared, KWS_SHARED, samples, coefficients);
    kws_stream_push_mfcc(stream, coefficients);
    /* Frames longer than two strides need samples that are older than the ones just pushed. */
    if (KWS_SHARED > KWS_STRIDE) {
        memmove(shared, shared + KWS_STRIDE, (KWS_SHARED - KWS_STRIDE) * sizeof *shared);
        memcpy(shared + KWS_SHARED - KWS_STRIDE, samples, KWS_STRIDE * sizeof *shared);
    } else {
        memcpy(shared, samples + KWS_STRIDE - KWS_SHARED, KWS_SHARED * sizeof *shared);
    }
}
