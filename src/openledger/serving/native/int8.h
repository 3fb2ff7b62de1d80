/* Products of a few rows with a matrix of 8-bit numbers, each of which is read once.
 *
 * A matrix (out, in) of int8 has one scale for each row. Every sum runs over the inputs in one
 * order, whatever rows are beside it.
 */

#undef widened8
#undef dot8
#undef int8_rows
#undef int8_all
#define widened8 NAME(widened8)
#define dot8 NAME(dot8)
#define int8_rows NAME(int8_rows)
#define int8_all NAME(int8_all)

#ifndef OPENLEDGER_AHEAD8
#define OPENLEDGER_AHEAD8
#define AHEAD8 4096 /* bytes that are fetched before they are used: half as long again without */
#endif

INLINE vec widened8(const int8_t *from) {
#if WIDTH == 16 /* compilers make less of the loop below */
    return (vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)from)));
#elif WIDTH == 8
    return (vec)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadu_si64(from)));
#else
    vec numbers;
    for (int i = 0; i < WIDTH; i++)
        numbers[i] = (float)from[i];
    return numbers;
#endif
}

/* sums (outs, count) of `outs` rows of the matrix with `count` rows of x. */
INLINE void dot8(const int count, const int outs, const float *x, int in, const int8_t *weight,
                 float *sums) {
    vec found[ROWS_AT_ONCE * OUTS_AT_ONCE];
    int whole = in / WIDTH * WIDTH;
    UNROLL
    for (int i = 0; i < outs * count; i++)
        found[i] = (vec){0};
    for (int at = 0; at < whole; at += WIDTH)
        UNROLL
        for (int out = 0; out < outs; out++) {
            __builtin_prefetch(weight + (int64_t)out * in + at + AHEAD8);
            vec numbers = widened8(weight + (int64_t)out * in + at);
            UNROLL
            for (int row = 0; row < count; row++)
                found[out * count + row] += load(x + (int64_t)row * in, at, 0) * numbers;
        }
    for (int out = 0; out < outs; out++)
        for (int row = 0; row < count; row++) {
            float sum = total(found[out * count + row]);
            for (int i = whole; i < in; i++)
                sum += x[(int64_t)row * in + i] * (float)weight[(int64_t)out * in + i];
            sums[out * count + row] = sum;
        }
}

INLINE void int8_rows(const int count, const float *x, int in, int first, int last,
                      const int8_t *weight, const float *scale, void *y, int64_t stride,
                      int is_bf16) {
    for (int out = first; out < last; out += OUTS_AT_ONCE) {
        float sums[ROWS_AT_ONCE * OUTS_AT_ONCE];
        int outs = last - out < OUTS_AT_ONCE ? last - out : OUTS_AT_ONCE;
        const int8_t *from = weight + (int64_t)out * in;
        if (outs == OUTS_AT_ONCE)
            dot8(count, OUTS_AT_ONCE, x, in, from, sums);
        else
            for (int one = 0; one < outs; one++)
                dot8(count, 1, x, in, from + (int64_t)one * in, sums + one * count);
        for (int one = 0; one < outs; one++)
            for (int row = 0; row < count; row++)
                store_number(y, row * stride + out + one, sums[one * count + row] * scale[out + one],
                             is_bf16);
    }
}

INLINE void int8_all(int rows, int in, int out, int threads, const float *x, const int8_t *weight,
                     const float *scale, char *y, int is_bf16) {
    const int parts = threads > 1 ? (out + OUTS_OF_PART - 1) / OUTS_OF_PART : 1;
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads) schedule(dynamic) if (parts > 1)
#endif
    for (int part = 0; part < parts; part++) {
        int first = part * OUTS_OF_PART, last = first + OUTS_OF_PART;
        if (parts == 1 || last > out)
            last = out;
        for (int row = 0; row < rows; row += ROWS_AT_ONCE) {
            const float *from = x + (int64_t)row * in;
            char *to = y + (is_bf16 ? 2 : 4) * (int64_t)row * out;
            switch (rows - row) {
            case 1: int8_rows(1, from, in, first, last, weight, scale, to, out, is_bf16); break;
            case 2: int8_rows(2, from, in, first, last, weight, scale, to, out, is_bf16); break;
            case 3: int8_rows(3, from, in, first, last, weight, scale, to, out, is_bf16); break;
            default: int8_rows(4, from, in, first, last, weight, scale, to, out, is_bf16);
            }
        }
    }
}

TARGET static void NAME(int8)(int rows, int in, int out, int threads, const float *x,
                              const int8_t *weight, const float *scale, void *y, int is_bf16) {
    if (is_bf16)
        int8_all(rows, in, out, threads, x, weight, scale, y, 1);
    else
        int8_all(rows, in, out, threads, x, weight, scale, y, 0);
}
