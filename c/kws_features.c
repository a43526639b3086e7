/* MFCCs as TensorFlow's AudioSpectrogram (magnitude_squared) and Mfcc operators define them, in the same steps as
 * kws/base/features.py on the PC and with its tables; log-mel energies are the logarithms before the DCT. (Despite the
 * name magnitude_squared, Mfcc takes the square root again: mel channels are sums of magnitudes.) With KWS_FIXED_POINT
 * all numbers are integers: see kws_fixed.h. */
#include <math.h>
#include <string.h>

#include "kws.h"

/* The samples are transformed by a complex FFT, in fixed point by two (see join_real in kws_fixed.h). */
#define STEP (KWS_FIXED_POINT ? 4 : 2) /* from a real part to the next, in samples */
#define POINTS (KWS_FFT / STEP)        /* of a complex FFT */
#define SMALLEST 1e-12f      /* floor of the logarithm, as in TensorFlow's Mfcc: digital silence has no energy */

/* The first butterflies have 4 inputs, or 8 if POINTS is no power of 4; all later ones have 4. */
#define POWER_OF_4 ((POINTS & 0x55555555) != 0)
#define FIRST (POWER_OF_4 ? 4 : 8)

/* The order in which the first butterflies read: in fixed point see join in kws_fixed.h. */
#if KWS_FIXED_POINT
#define ORDER(i) (((i) ^ ((i) & 0x55555555) << 1 ^ 0x55555555) & (POINTS / FIRST - 1))
#else
#define ORDER(i) (i)
#endif

typedef kws_complex complex_value;

KWS_INLINE complex_value plus(complex_value a, complex_value b) {
    const complex_value result = {a.real + b.real, a.imaginary + b.imaginary};
    return result;
}

KWS_INLINE complex_value minus(complex_value a, complex_value b) {
    const complex_value result = {a.real - b.real, a.imaginary - b.imaginary};
    return result;
}

/* a - ib */
KWS_INLINE complex_value minus_i_times(complex_value a, complex_value b) {
    const complex_value result = {a.real + b.imaginary, a.imaginary - b.real};
    return result;
}

/* a + ib */
KWS_INLINE complex_value plus_i_times(complex_value a, complex_value b) {
    const complex_value result = {a.real - b.imaginary, a.imaginary + b.real};
    return result;
}

/* Compute the DFT of 4 values in place, in natural order. */
KWS_INLINE void transform_4(complex_value *a, complex_value *b, complex_value *c, complex_value *d) {
    const complex_value sum = plus(*a, *c), difference = minus(*a, *c);
    const complex_value other_sum = plus(*b, *d), other_difference = minus(*b, *d);
    *a = plus(sum, other_sum);
    *b = minus_i_times(difference, other_difference);
    *c = minus(sum, other_sum);
    *d = plus_i_times(difference, other_difference);
}

static complex_value twiddle(int i) {
    const complex_value result = {kws_twiddle[i][0], kws_twiddle[i][1]};
    return result;
}

#if KWS_FIXED_POINT
/* Return x / 2^bits, rounded. */
KWS_INLINE int32_t shifted(int32_t x, int bits) { return (x + ((1 << bits) >> 1)) >> bits; }

/* Return a windowed sample of up to 28 bits and a sign, or 27 if 8 are added. The sample is shifted to 15 bits first. */
KWS_INLINE int32_t windowed(int16_t sample, kws_weight weight, int bits) {
    return weight * (sample * (1 << bits)) >> (POWER_OF_4 ? 2 : 3);
}

/* Return x times the cosine of 45 degrees. */
KWS_INLINE int32_t times_half_root(int32_t x) {
    return (x >> 16) * 46341 + (int32_t)((uint32_t)(x & 0xFFFF) * 46341 >> 16);
}
#else
KWS_INLINE float windowed(int16_t sample, kws_weight weight, int bits) {
    (void)bits;
    return weight * sample;
}

KWS_INLINE float times_half_root(float x) { return 0.707106781f * x; }
#endif

/* Return the windowed samples `start + later` and STEP / 2 after it, zeros beyond the window. They are real and imaginary
 * parts, so that complex FFTs of half the length are enough for real samples. */
KWS_INLINE complex_value pair(const int16_t *samples, int start, int later, int bits) {
    const int16_t *from = samples + start;
    const kws_weight *window = kws_window + start;
    const int other = later + STEP / 2;
    complex_value result = {0, 0};
    if (start + later < KWS_WINDOW) result.real = windowed(from[later], window[later], bits);
    if (start + other < KWS_WINDOW) result.imaginary = windowed(from[other], window[other], bits);
    return result;
}

KWS_INLINE void first_4(const int16_t *samples, int i, int bits, complex_value *to) {
    complex_value a = pair(samples, i, 0, bits), b = pair(samples, i, KWS_FFT / 4, bits);
    complex_value c = pair(samples, i, KWS_FFT / 2, bits), d = pair(samples, i, KWS_FFT / 4 * 3, bits);
    transform_4(&a, &b, &c, &d);
    to[0] = a, to[1] = b, to[2] = c, to[3] = d;
}

/* The same for 8 values: two transforms of 4, of even and of odd values. */
KWS_INLINE void first_8(const int16_t *samples, int i, int bits, complex_value *to) {
    complex_value a = pair(samples, i, 0, bits), b = pair(samples, i, KWS_FFT / 8 * 2, bits);
    complex_value c = pair(samples, i, KWS_FFT / 8 * 4, bits), d = pair(samples, i, KWS_FFT / 8 * 6, bits);
    complex_value e = pair(samples, i, KWS_FFT / 8, bits), f = pair(samples, i, KWS_FFT / 8 * 3, bits);
    complex_value g = pair(samples, i, KWS_FFT / 8 * 5, bits), h = pair(samples, i, KWS_FFT / 8 * 7, bits);
    transform_4(&a, &b, &c, &d);
    transform_4(&e, &f, &g, &h);
    const complex_value turned_f = {times_half_root(f.real + f.imaginary), times_half_root(f.imaginary - f.real)};
    const complex_value turned_h = {times_half_root(h.imaginary - h.real), times_half_root(-h.imaginary - h.real)};
    to[0] = plus(a, e), to[4] = minus(a, e);
    to[1] = plus(b, turned_f), to[5] = minus(b, turned_f);
    to[2] = minus_i_times(c, g), to[6] = plus_i_times(c, g);
    to[3] = plus(d, turned_h), to[7] = minus(d, turned_h);
}

/* The first butterflies, which read the samples in place, from sample `first` on. */
static void first_butterflies(const int16_t *samples, int first, int bits, complex_value buffer[POINTS]) {
    int reversed = 0; /* the bits of i in reverse, so that decimation ends in natural order */
    for (int i = 0; i < POINTS / FIRST; i++) {
        const int start = first + STEP * ORDER(i);
        if (POWER_OF_4) {
            first_4(samples, start, bits, &buffer[FIRST * reversed]);
        } else {
            first_8(samples, start, bits, &buffer[FIRST * reversed]);
        }
        int bit = POINTS / FIRST / 2;
        for (; reversed & bit; bit >>= 1) reversed ^= bit;
        reversed ^= bit;
    }
}

#if KWS_FIXED_POINT
#include "kws_fixed.h"
#else

/* Return a b + c, in one instruction and with one rounding if the processor can. */
KWS_INLINE float multiply_add(float a, float b, float c) {
#ifdef __FP_FAST_FMAF
    return fmaf(a, b, c);
#else
    return a * b + c;
#endif
}

/* Return the square root of a sum of squares. sqrtf would also check whether x is negative. */
KWS_INLINE float square_root(float x) {
#if defined(__arm__) && defined(__ARM_FP) && (__ARM_FP & 4) && defined(__GNUC__)
    __asm("vsqrt.f32 %0, %0" : "+t"(x));
    return x;
#else
    return sqrtf(x);
#endif
}

/* Return a exp(-i angle), from the angle's cosine (real) and sine (imaginary). */
KWS_INLINE complex_value turned(complex_value a, complex_value angle) {
    const complex_value result = {multiply_add(a.imaginary, angle.imaginary, a.real * angle.real),
                                  multiply_add(-a.real, angle.imaginary, a.imaginary * angle.real)};
    return result;
}

/* The complex FFT, radix 4, decimation in time (Cooley and Tukey, Mathematics of Computation 19, 1965). */
static void transform(const int16_t *samples, complex_value buffer[POINTS]) {
    first_butterflies(samples, 0, 0, buffer);
    for (int size = FIRST; size < POINTS; size *= 4) { /* of the transforms that are joined by fours */
        const int step = KWS_FFT / (4 * size);         /* in the table, whose angles are 2 pi / KWS_FFT apart */
        for (int k = 0; k < size; k++) {
            const complex_value once = twiddle(k * step), twice = twiddle(2 * k * step);
            const complex_value thrice = { /* once and twice: their angles add up */
                multiply_add(-once.imaginary, twice.imaginary, once.real * twice.real),
                multiply_add(once.imaginary, twice.real, once.real * twice.imaginary)};
            for (complex_value *a = &buffer[k]; a < buffer + POINTS; a += 4 * size) {
                /* with reversed bits, the second quarter is the third */
                complex_value first = a[0], second = turned(a[2 * size], once);
                complex_value third = turned(a[size], twice), fourth = turned(a[3 * size], thrice);
                transform_4(&first, &second, &third, &fourth);
                a[0] = first, a[size] = second, a[2 * size] = third, a[3 * size] = fourth;
            }
        }
    }
}

/* Return the magnitude of bin k, 1 to POINTS - 1, of the spectrum of the real samples.
 *
 * Z is the complex spectrum. As spectra of real samples are symmetric, the spectrum of the even samples is
 * E = (Z[k] + conj Z[POINTS - k]) / 2, of the odd samples O = (Z[k] - conj Z[POINTS - k]) / 2i, and of all samples
 * E + O exp(-2 pi i k / KWS_FFT) (Press et al., Numerical Recipes, section 12.3). The factor 1/2 is in the window. */
KWS_INLINE float magnitude(const complex_value spectrum[POINTS], int k) {
    const complex_value one = spectrum[k], other = spectrum[POINTS - k];
    const complex_value even = {one.real + other.real, one.imaginary - other.imaginary};
    const complex_value odd = {one.imaginary + other.imaginary, other.real - one.real};
    const complex_value whole = plus(even, turned(odd, twiddle(k)));
    return square_root(multiply_add(whole.real, whole.real, whole.imaginary * whole.imaginary));
}

/* Return the natural logarithm of a positive float32, within 2e-6. libm is slow without double precision.
 *
 * With x = 2^e m, m from sqrt(1/2) to sqrt(2), ln x = e ln 2 + ln m. ln m = 2 artanh s with s = (m - 1) / (m + 1). Its
 * series s + s^3 / 3 + s^5 / 5 + ... needs four terms, as |s| < 0.172. */
static float logarithm(float x) {
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    const int32_t exponent = (bits - 0x3F3504F3) >> 23; /* the bits of sqrt(1/2); a fraction has 23 */
    bits -= exponent * (1 << 23);
    memcpy(&x, &bits, sizeof x);
    const float s = (x - 1) / (x + 1), square = s * s;
    float series = multiply_add(square, 1.0f / 7, 1.0f / 5);
    series = multiply_add(series, square, 1.0f / 3);
    series = multiply_add(series, square, 1);
    return multiply_add(2 * s, series, (float)exponent * 0.693147181f);
}

#if KWS_DCT_ROWS
/* Compute `count` values of the DCT of the logarithms of the mel channels, and overwrite these. Cosines of even order
 * are symmetric, cosines of odd order antisymmetric, so half of the products are enough. */
static void cosine_transform(float mel[KWS_MEL_CHANNELS], int count, float *coefficients) {
    for (int i = 0; i < KWS_MEL_CHANNELS / 2; i++) {
        float *one = &mel[i], *other = &mel[KWS_MEL_CHANNELS - 1 - i];
        const float sum = *one + *other;
        *other = *one - *other;
        *one = sum;
    }
    for (int i = 0; i < count; i += 2) {
        const float *sum = mel, *difference = &mel[KWS_MEL_CHANNELS - 1];
        const float *next = kws_dct[i + 1 < count ? i + 1 : i];
        float even = 0, odd = 0;
        for (int j = 0; j < KWS_MEL_CHANNELS / 2; j++) {
            even = multiply_add(kws_dct[i][j], *sum++, even);
            odd = multiply_add(next[j], *difference--, odd);
        }
        coefficients[i] = even;
        if (i + 1 < count) coefficients[i + 1] = odd;
    }
}
#endif

/* Compute the logarithms of the mel channels of a frame. */
static void log_mel(kws_work *work, const int16_t *samples, float mel[KWS_MEL_CHANNELS]) {
    float above = 0;
    transform(samples, work->spectrum);
    for (int channel = -1, i = 0; channel < KWS_MEL_CHANNELS; channel++) {
        float here = above;
        above = 0;
        for (; i < kws_mel_ends[channel + 1]; i++) {
            const float loudness = magnitude(work->spectrum, KWS_FIRST_BIN + i);
            here = multiply_add(kws_mel_weights[i][0], loudness, here);
            above = multiply_add(kws_mel_weights[i][1], loudness, above);
        }
        if (channel >= 0) mel[channel] = logarithm(here > SMALLEST ? here : SMALLEST);
    }
}

/* Quantize as TFLite does: value = scale * (quantized - zero point). Values out of range saturate. */
KWS_INLINE void quantize(const float *coefficients, int count, float scale, int bits, int zero, int8_t *input) {
    (void)bits;
    for (int i = 0; i < count; i++) {
        float value = rintf(coefficients[i] / scale) + (float)zero;
        input[i] = (int8_t)(value < -128 ? -128 : value > 127 ? 127 : value);
    }
}

#endif

/* Compute the features of a frame: `dct` MFCCs, or the logarithms if that is 0. */
KWS_INLINE void features_of(kws_work *work, const int16_t *samples, int dct, kws_feature *features) {
    kws_feature mel[KWS_MEL_CHANNELS];
    log_mel(work, samples, dct ? mel : features);
#if KWS_DCT_ROWS
    if (dct) cosine_transform(mel, dct, features);
#endif
}

void kws_mfcc(kws_stream *stream, const int16_t *samples, kws_feature coefficients[KWS_COEFFICIENTS]) {
    features_of(&stream->work, samples, KWS_DCT, coefficients);
}

void kws_features(kws_stream *stream, const int16_t *samples, int8_t input[KWS_INPUTS]) {
    kws_feature coefficients[KWS_COEFFICIENTS];
    for (int i = 0; i < KWS_FRAMES; i++) {
        kws_mfcc(stream, samples + i * KWS_STRIDE, coefficients);
        quantize(coefficients, KWS_COEFFICIENTS, KWS_INPUT_SCALE, KWS_INPUT_BITS, KWS_INPUT_ZERO, input + i * KWS_COEFFICIENTS);
    }
}

void kws_stream_start(kws_stream *stream) {
    static const int16_t silence[KWS_STRIDE] = {0};
    memset(stream, 0, sizeof *stream);
    for (int i = 0; i < KWS_SILENCE; i++) kws_stream_push(stream, silence);
}

void kws_stream_push_mfcc(kws_stream *stream, const kws_feature coefficients[KWS_COEFFICIENTS]) {
#if KWS_STREAMING
    int8_t *place = stream->kept + stream->count[0] * KWS_COEFFICIENTS;
#else
    int8_t *place = stream->input + KWS_INPUTS - KWS_COEFFICIENTS;
    memmove(stream->input, stream->input + KWS_COEFFICIENTS, KWS_INPUTS - KWS_COEFFICIENTS);
#endif
    quantize(coefficients, KWS_COEFFICIENTS, KWS_INPUT_SCALE, KWS_INPUT_BITS, KWS_INPUT_ZERO, place);
#if KWS_STREAMING
    kws_stream_compute(stream);
#endif
}

void kws_stream_push(kws_stream *stream, const int16_t samples[KWS_STRIDE]) {
    kws_feature coefficients[KWS_COEFFICIENTS];
#if KWS_SHARED
    memmove(stream->frame, stream->frame + KWS_STRIDE, KWS_SHARED * sizeof *samples);
    memcpy(stream->frame + KWS_SHARED, samples, KWS_STRIDE * sizeof *samples);
    samples = stream->frame;
#endif
    kws_mfcc(stream, samples, coefficients);
    kws_stream_push_mfcc(stream, coefficients);
}

#if KWS_VERIFIER
void kws_verifier_frame(kws_stream *stream, const int16_t samples[KWS_WINDOW],
                        int8_t input[KWS_VERIFIER_COEFFICIENTS]) {
    kws_feature coefficients[KWS_VERIFIER_COEFFICIENTS];
    features_of(&stream->work, samples, KWS_VERIFIER_DCT, coefficients);
    quantize(coefficients, KWS_VERIFIER_COEFFICIENTS, KWS_VERIFIER_INPUT_SCALE, KWS_VERIFIER_INPUT_BITS,
             KWS_VERIFIER_INPUT_ZERO, input);
}
#endif
