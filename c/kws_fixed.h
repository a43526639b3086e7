/* The steps of kws_features.c in integers, for processors without a floating-point unit. A part of kws_features.c.
 *
 * The loudest sample is shifted to 15 bits, so that values of the FFT have nearly 32 (block scaling). Each stage divides
 * them by 4, as it may make them 4 times as large. Factors have up to 16 bits; values are multiplied in two halves, as
 * the smallest processors give 32 bits of a product only. Roots and logarithms are interpolated in tables. */

#define FEATURE_BITS 16        /* after the point of logarithms and features */
#define MEL_BITS 15            /* of kws_mel_weights */
#define DCT_BITS 17            /* of kws_dct */
#define LN_2 726817            /* in 2^-20 */
#define LN_SMALLEST (-1810870) /* ln 1e-12, of digital silence */

/* Return |x|, or |x| - 1 if x is negative: it has as many bits. */
KWS_INLINE uint32_t size_of(int32_t x) { return (uint32_t)(x ^ (x >> 31)); }

KWS_INLINE complex_value quarter(complex_value a) {
    const complex_value result = {a.real >> 2, a.imaginary >> 2};
    return result;
}

/* Return a exp(-i angle) / 4: kws_twiddle has 14 bits after the point, and products are divided by 2^16. */
KWS_INLINE complex_value turned(complex_value a, complex_value angle) {
    const int32_t real = a.real >> 16, real_low = a.real & 0xFFFF;
    const int32_t imaginary = a.imaginary >> 16, imaginary_low = a.imaginary & 0xFFFF;
    const complex_value result = {
        real * angle.real + imaginary * angle.imaginary +
            ((real_low * angle.real + imaginary_low * angle.imaginary) >> 16),
        imaginary * angle.real - real * angle.imaginary +
            ((imaginary_low * angle.real - real_low * angle.imaginary) >> 16)};
    return result;
}

/* Join transforms of `size` values by fours, divided by 4. */
static void join(complex_value buffer[POINTS], int size) {
    const int step = KWS_FFT / (4 * size); /* in the table, whose angles are 2 pi / KWS_FFT apart */
    for (int k = 0; k < size; k++) {
        const complex_value once = twiddle(k * step), twice = twiddle(2 * k * step);
        complex_value thrice = twiddle(3 * k * step & (KWS_FFT / 2 - 1)); /* the table has half a turn */
        if (3 * k * step >= KWS_FFT / 2) thrice.real = -thrice.real, thrice.imaginary = -thrice.imaginary;
        for (complex_value *a = &buffer[k]; a < buffer + POINTS; a += 4 * size) {
            /* with reversed bits, the second quarter is the third */
            complex_value first = quarter(a[0]), second = turned(a[2 * size], once);
            complex_value third = turned(a[size], twice), fourth = turned(a[3 * size], thrice);
            transform_4(&first, &second, &third, &fourth);
            a[0] = first, a[size] = second, a[2 * size] = third, a[3 * size] = fourth;
        }
    }
}

/* Return the square root of a sum of squares, from a table. */
KWS_INLINE uint32_t root(uint32_t x) {
    int halves = 0;
    if (!x) return 0;
    for (; !(x >> 30); x <<= 2) halves++;
    const uint16_t *entry = &kws_roots[(x >> 24) - 64];
    const uint32_t result = entry[0] + ((uint32_t)(entry[1] - entry[0]) * (x >> 8 & 0xFFFF) >> 16);
    return (result + (1u << halves >> 1)) >> halves;
}

/* Return the natural logarithm of x / 2^scale. */
static int32_t logarithm(uint32_t x, int scale) {
    int bits = 31 - scale;
    for (; !(x >> 24); x <<= 8) bits -= 8;
    for (; !(x >> 31); x <<= 1) bits--;
    const uint16_t *entry = &kws_logarithms[x >> 24 & 127];
    return entry[0] + (int32_t)((uint32_t)(entry[1] - entry[0]) * (x >> 8 & 0xFFFF) >> 16) + (bits * LN_2 >> (20 - FEATURE_BITS));
}

/* Return 1/16 of bin k of the spectrum of the real samples (see magnitude in kws_features.c). */
KWS_INLINE complex_value bin(const complex_value spectrum[POINTS], int k) {
    const complex_value one = quarter(spectrum[k]), other = quarter(spectrum[POINTS - k]);
    const complex_value even = {one.real + other.real, one.imaginary - other.imaginary};
    const complex_value odd = {one.imaginary + other.imaginary, other.real - one.real};
    return plus(quarter(even), turned(odd, twiddle(k)));
}

/* Compute the logarithms of the mel channels of a frame. */
static void log_mel(kws_work *work, const int16_t *samples, int32_t mel[KWS_MEL_CHANNELS]) {
    const uint32_t half = 1 << MEL_BITS >> 1;
    uint32_t all = 0, above = 0;
    int any = 0, before = 0;
    for (int i = 0; i < KWS_WINDOW; i++) all |= size_of(samples[i]), any |= samples[i];
    if (!any) {
        for (int i = 0; i < KWS_MEL_CHANNELS; i++) mel[i] = LN_SMALLEST;
        return;
    }
    while (before < 14 && all << before >> 14 == 0) before++;
    first_butterflies(samples, before, work->spectrum);
    int scale = WINDOWED_BITS + before - 4; /* magnitudes are 2^scale times as large as in kws_features.c */
    for (int size = FIRST; size < POINTS; size *= 4, scale -= 2) join(work->spectrum, size);
    for (int channel = -1, i = 0; channel < KWS_MEL_CHANNELS; channel++) {
        uint32_t here = above;
        above = 0;
        for (; i < kws_mel_ends[channel + 1]; i++) {
            complex_value value = bin(work->spectrum, KWS_FIRST_BIN + i);
            uint32_t size = size_of(value.real) | size_of(value.imaginary);
            int bits = 0; /* shifted out, so that squares fit */
            if (size >> 23) size >>= 8, bits = 8;
            if (size >> 19) size >>= 4, bits += 4;
            if (size >> 17) size >>= 2, bits += 2;
            if (size >> 16) size >>= 1, bits++;
            if (size >> 15) bits++;
            value.real = shifted(value.real, bits), value.imaginary = shifted(value.imaginary, bits);
            const uint32_t squares = (uint32_t)(value.real * value.real) + (uint32_t)(value.imaginary * value.imaginary);
            const uint32_t loudness = root(squares);
            here += ((uint32_t)kws_mel_weights[i][0] * loudness + half) >> MEL_BITS << bits;
            above += ((uint32_t)kws_mel_weights[i][1] * loudness + half) >> MEL_BITS << bits;
        }
        if (channel >= 0) mel[channel] = logarithm(here > 0 ? here : 1, scale);
    }
}

#if KWS_DCT_ROWS
/* The DCT of kws_features.c; logarithms are multiplied in two parts. */
static void cosine_transform(int32_t mel[KWS_MEL_CHANNELS], int count, int32_t *coefficients) {
    const int less = 3; /* bits, so that sums fit */
    for (int i = 0; i < KWS_MEL_CHANNELS / 2; i++) {
        int32_t *one = &mel[i], *other = &mel[KWS_MEL_CHANNELS - 1 - i];
        const int32_t sum = *one + *other;
        *other = *one - *other;
        *one = sum;
    }
    for (int i = 0; i < count; i++) {
        const int32_t *value = i % 2 ? &mel[KWS_MEL_CHANNELS - 1] : mel;
        const int forward = i % 2 ? -1 : 1;
        int32_t sum = 0;
        for (int j = 0; j < KWS_MEL_CHANNELS / 2; j++, value += forward) {
            const int32_t cosine = kws_dct[i][j];
            sum += shifted(cosine * (*value >> 8) + (cosine * (*value & 255) >> 8), less);
        }
        coefficients[i] = shifted(sum, DCT_BITS - less - 8);
    }
}
#endif

/* Quantize as TFLite does; a feature of 1 is `scale` steps, in 2^-bits. `scale` has 30 bits: two parts, so that products
 * fit. */
KWS_INLINE void quantize(const int32_t *features, int count, int32_t scale, int bits, int zero, int8_t *input) {
    const int32_t high = scale >> 15, low = scale & 0x7FFF;
    for (int i = 0; i < count; i++) {
        const int32_t whole = features[i] >> 8, rest = features[i] & 255;
        const int32_t steps = whole * high + (whole * low >> 15) + (rest * high >> 8);
        const int32_t value = shifted(steps, bits - 15 + FEATURE_BITS - 8) + zero;
        input[i] = (int8_t)(value < -128 ? -128 : value > 127 ? 127 : value);
    }
}
