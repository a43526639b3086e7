/* The steps of kws_features.c in integers, for processors without a floating-point unit. A part of kws_features.c.
 *
 * The loudest sample is shifted to 15 bits, so that values of the FFT have nearly 32 (block scaling). Each stage divides
 * them by 4, as it may make them 4 times as large. Factors have up to 16 bits. Magnitudes are computed by turning
 * (CORDIC), logarithms interpolated in a table. */

#define FEATURE_BITS 16        /* after the point of logarithms and features */
#define DCT_BITS 17            /* of kws_dct */
#define LN_2 726817            /* in 2^-20 */
#define LN_GAIN 9970           /* ln 1.1643: see magnitude */
#define LN_SMALLEST (-1810870) /* ln 1e-12, of digital silence */

/* Return |x|, or |x| - 1 if x is negative: it has as many bits. */
KWS_INLINE int32_t size_of(int32_t x) { return x ^ (x >> 31); }

/* Return the bits of a sample that differ from the next lower one: the highest is that of its size. */
KWS_INLINE uint32_t changes_of(int16_t sample) { return (uint16_t)sample ^ (uint32_t)(uint16_t)sample << 1; }

KWS_INLINE complex_value quarter(complex_value a) {
    const complex_value result = {a.real >> 2, a.imaginary >> 2};
    return result;
}

/* Return the lower half of x. */
KWS_INLINE uint32_t low_half(uint32_t x) {
#if defined(__GNUC__) && defined(__thumb__) && !defined(__thumb2__)
    __asm("uxth %0, %1" : "=l"(x) : "l"(x)); /* gcc would shift it up and down */
    return x;
#else
    return x & 0xFFFF;
#endif
}

/* Return x factor / 2^16, rounded down: the same bits both ways. The smallest processors give 32 bits of a product only,
 * so they multiply the halves of x. */
KWS_INLINE int32_t times(int32_t x, int32_t factor) {
#if defined(__thumb__) && !defined(__thumb2__)
    return (x >> 16) * factor + ((int32_t)low_half((uint32_t)x) * factor >> 16);
#else
    return (int32_t)((int64_t)x * factor >> 16);
#endif
}

/* Return a exp(-i angle) / 4: kws_twiddle has 14 bits after the point, and products are divided by 2^16. Three products
 * are enough for the four of complex numbers. */
KWS_INLINE complex_value turned(complex_value a, complex_value angle) {
    const int32_t both = times(a.real + a.imaginary, angle.real);
    const complex_value result = {both - times(a.imaginary, angle.real - angle.imaginary),
                                  both - times(a.real, angle.real + angle.imaginary)};
    return result;
}

/* Return a exp(i angle) / 4. */
KWS_INLINE complex_value turned_back(complex_value a, complex_value angle) {
    const complex_value opposite = {angle.real, -angle.imaginary};
    return turned(a, opposite);
}

/* The smallest processors have few registers. What is loaded and stored as volatile stays in memory meanwhile. */
KWS_INLINE complex_value load(const volatile complex_value *a) {
    const complex_value result = {a->real, a->imaginary};
    return result;
}

KWS_INLINE void store(volatile complex_value *a, complex_value value) {
    a->real = value.real;
    a->imaginary = value.imaginary;
}

/* Join transforms of `size` values by fours, divided by 4, in all of the buffer.
 *
 * The fourth one is of the values before those of the first, not after those of the third: it is turned back as far as
 * the second is turned (Kamar and Elcherif, Conjugate pair fast Fourier transform, 1989). So the first butterflies read
 * in another order. All that is read one step later changes no magnitude. */
static void join(complex_value buffer[KWS_FFT / 2], int size) {
    const int step = KWS_FFT / (4 * size); /* in the table, whose angles are 2 pi / KWS_FFT apart */
    const complex_value *end = buffer + KWS_FFT / 2;
    for (complex_value *a = buffer; a < end; a += 4 * size) { /* with reversed bits, the second quarter is the third */
        complex_value first = quarter(a[0]), second = quarter(a[2 * size]);
        complex_value third = quarter(a[size]), fourth = quarter(a[3 * size]);
        transform_4(&first, &second, &third, &fourth);
        a[0] = first, a[size] = second, a[2 * size] = third, a[3 * size] = fourth;
    }
    for (int k = 1; k < size; k++) {
        const complex_value once = twiddle(k * step), twice = twiddle(2 * k * step);
        for (volatile complex_value *a = &buffer[k]; a < end; a += 4 * size) {
            const complex_value first = quarter(load(a)), third = turned(load(a + size), twice);
            store(a, plus(first, third)), store(a + size, minus(first, third));
            store(a + 2 * size, turned(load(a + 2 * size), once));
            const complex_value fourth = turned_back(load(a + 3 * size), once), second = load(a + 2 * size);
            const complex_value both = plus(second, fourth), difference = minus(second, fourth);
            const complex_value even = load(a);
            store(a, plus(even, both)), store(a + 2 * size, minus(even, both));
            const complex_value odd = load(a + size);
            store(a + size, minus_i_times(odd, difference)), store(a + 3 * size, plus_i_times(odd, difference));
        }
    }
}

/* Turn (x, y) by the angle whose tangent is 2^-bits, and mirror it if it gets below the x axis. */
KWS_INLINE void fold(int32_t *x, int32_t *y, int bits) {
    const int32_t before = *x;
    *x += *y >> bits;
    *y = size_of(*y - (before >> bits));
}

/* Return 1.1643 times the magnitude of a complex value, within 0.01 %. Each fold about halves the angle that is left;
 * the last term is right on average for what is left in the end. */
KWS_INLINE int32_t magnitude(complex_value a) {
    int32_t x = size_of(a.real), y = size_of(a.imaginary);
    if (x < y) {
        const int32_t larger = y;
        y = x, x = larger;
    }
    fold(&x, &y, 1), fold(&x, &y, 2), fold(&x, &y, 3), fold(&x, &y, 4), fold(&x, &y, 5);
    return x + (y >> 6);
}

/* Join the spectra of all fourth real samples: put half the magnitude of each bin into its real part, for mel filters.
 *
 * One complex transform is of samples 0 and 2 of four (real and imaginary parts), the next of samples 1 and 3. As spectra
 * of real samples are symmetric, the spectrum of the real parts is (Z[k] + conj Z[POINTS - k]) / 2 and of the imaginary
 * parts (Z[k] - conj Z[POINTS - k]) / 2i (Press et al., Numerical Recipes, section 12.3). They are joined as in `join`,
 * with sample 1 of four as the first, 2 as the second, 3 as the third, and 0 as the fourth. */
static void join_real(complex_value buffer[2 * POINTS]) {
    complex_value *a = buffer + POINTS, *b = buffer + 2 * POINTS;
    const complex_value even_0 = buffer[POINTS], odd_0 = buffer[0];
    for (int k = 1; k <= POINTS / 2; k++) {
        const complex_value one = *++a, other = *--b;
        const complex_value real = {one.real + other.real, one.imaginary - other.imaginary};
        const complex_value imaginary = {one.imaginary + other.imaginary, other.real - one.real};
        const complex_value first = quarter(real), third = turned(imaginary, twiddle(2 * k));
        *a = plus(first, third), *b = minus(first, third);
    }
    a = buffer, b = buffer + POINTS;
    for (int k = 1; k <= POINTS / 2; k++) {
        const complex_value once = twiddle(k);
        const complex_value one = *++a, other = *--b;
        const complex_value real = {one.real + other.real, one.imaginary - other.imaginary};
        const complex_value imaginary = {one.imaginary + other.imaginary, other.real - one.real};
        const complex_value second = turned(imaginary, once), fourth = turned_back(real, once);
        const complex_value both = plus(second, fourth), difference = minus(second, fourth);
        a->real = magnitude(plus(a[POINTS], both));
        b->real = magnitude(plus_i_times(b[POINTS], difference));
        if (KWS_FIRST_BIN + KWS_BINS > POINTS) { /* at less than 16 kHz */
            const complex_value even = a[POINTS], odd = b[POINTS];
            b[POINTS].real = magnitude(minus(even, both)); /* the same place as a[POINTS] at last, which is right */
            a[POINTS].real = magnitude(minus_i_times(odd, difference));
        }
    }
    if (KWS_FIRST_BIN + KWS_BINS > POINTS) {
        const complex_value middle = {(even_0.real - even_0.imaginary) >> 1, (odd_0.real - odd_0.imaginary) >> 1};
        buffer[POINTS].real = magnitude(middle);
    }
}

/* Return the natural logarithm of x / 2^scale / 1.1643. */
static int32_t logarithm(uint32_t x, int scale) {
    int bits = 31 - scale;
    for (; !(x >> 24); x <<= 8) bits -= 8;
    for (; !(x >> 31); x <<= 1) bits--;
    const kws_weight *entry = &kws_logarithms[x >> 24 & 127];
    const uint32_t rest = (uint32_t)(entry[1] - entry[0]) * (x >> 8 & 0xFFFF) >> 16;
    return entry[0] + (int32_t)rest + (bits * LN_2 >> (20 - FEATURE_BITS)) - LN_GAIN;
}

/* Compute the logarithms of the mel channels of a frame. */
static void log_mel(kws_work *work, const int16_t *samples, int32_t mel[KWS_MEL_CHANNELS]) {
    uint32_t changes = changes_of(samples[KWS_WINDOW - 1]), above = 0;
    int bits = 0;
    for (int i = 0; i + 1 < KWS_WINDOW; i += 2) changes |= changes_of(samples[i]) | changes_of(samples[i + 1]);
    while (bits < 14 && !(changes << bits & 0x8000)) bits++;
    first_butterflies(samples, 0, bits, work->spectrum);
    first_butterflies(samples, 1, bits, work->spectrum + POINTS);
    int scale = bits + (POWER_OF_4 ? 27 : 26); /* magnitudes are 2^scale times as large as in kws_features.c */
    for (int size = FIRST; size < POINTS; size *= 4, scale -= 2) join(work->spectrum, size);
    join_real(work->spectrum);
    for (int channel = -1, i = 0; channel < KWS_MEL_CHANNELS; channel++) {
        uint32_t both = 0, upper = 0;
        for (; i < kws_mel_ends[channel + 1]; i++) {
            const uint32_t loudness = (uint32_t)work->spectrum[KWS_FIRST_BIN + i].real, weight = kws_mel_weights[i];
            both += loudness;
            upper += (loudness >> 16) * weight + (low_half(loudness) * weight >> 16);
        }
        const uint32_t here = above + both - upper;
        if (channel >= 0) mel[channel] = here > 0 ? logarithm(here, scale) : LN_SMALLEST;
        above = upper;
    }
}

#if KWS_DCT_ROWS
/* The DCT of kws_features.c; logarithms are multiplied in two parts, so that sums fit. */
static void cosine_transform(int32_t mel[KWS_MEL_CHANNELS], int count, int32_t *coefficients) {
    const int bits = 11; /* of the lower part */
    for (int i = 0; i < KWS_MEL_CHANNELS / 2; i++) {
        int32_t *one = &mel[i], *other = &mel[KWS_MEL_CHANNELS - 1 - i];
        const int32_t sum = *one + *other;
        *other = *one - *other;
        *one = sum;
    }
    for (int i = 0; i < count; i++) {
        const int32_t *value = i % 2 ? &mel[KWS_MEL_CHANNELS - 1] : mel;
        const int forward = i % 2 ? -1 : 1;
        int32_t high = 0, low = 0;
        for (int j = 0; j < KWS_MEL_CHANNELS / 2; j++, value += forward) {
            const int32_t cosine = kws_dct[i][j];
            high += cosine * (*value >> bits);
            low += cosine * (*value & ((1 << bits) - 1));
        }
        coefficients[i] = shifted(high + (low >> bits), DCT_BITS - bits);
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
