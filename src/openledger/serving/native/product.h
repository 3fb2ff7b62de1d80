/* Products with a matrix that lies in panels, of float32 or of 8-bit numbers with a scale for each
 * output.
 *
 * A panel is PANEL outputs: their numbers of input 0, then those of input 1, ...; the last one is
 * filled up with zeros. A few rows' sums with one panel stay in registers while its numbers pass,
 * DEPTH inputs at a time, so that these come from the nearest cache for the next few rows. With few
 * rows a product waits for memory, so what is needed after that is fetched meanwhile, as much with
 * each pass as brings the whole. Every sum runs over the inputs one after the other, whatever rows
 * are beside it.
 */

#undef VECTORS_OF_PANEL
#undef ROWS_OF_PASS
#undef ROWS_OF_GROUP
#undef widened8
#undef pass
#undef passes
#undef put
#define VECTORS_OF_PANEL (PANEL / WIDTH)
#define ROWS_OF_PASS (WIDTH == 16 ? 12 : WIDTH == 8 ? 3 : 2) /* whose sums the registers hold */
#define ROWS_OF_GROUP (4 * ROWS_OF_PASS)
#define widened8 NAME(widened8)
#define pass NAME(pass)
#define passes NAME(passes)
#define put NAME(put)

#ifndef OPENLEDGER_DEPTH
#define OPENLEDGER_DEPTH
#define DEPTH 128
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

/* sums (count, PANEL) += `count` rows of x with `depth` inputs of a panel. `stride` bytes from `ahead`
 * on are fetched with each input. */
INLINE void pass(const int is_int8, const int count, const float *x, int64_t in, int depth,
                 const char *panel, const char *ahead, int stride, float *sums) {
    vec own[ROWS_OF_PASS * VECTORS_OF_PANEL];
    UNROLL
    for (int i = 0; i < count * VECTORS_OF_PANEL; i++)
        own[i] = load(sums, i * WIDTH, 0);
    for (int at = 0; at < depth; at++, panel += is_int8 ? PANEL : 4 * PANEL, ahead += stride) {
        vec numbers[VECTORS_OF_PANEL];
        __builtin_prefetch(ahead, 0, 2);
        if (stride > 64)
            __builtin_prefetch(ahead + 64, 0, 2);
        UNROLL
        for (int v = 0; v < VECTORS_OF_PANEL; v++)
            numbers[v] = is_int8 ? widened8((const int8_t *)panel + v * WIDTH)
                                 : load(panel, v * WIDTH, 0);
        UNROLL
        for (int row = 0; row < count; row++) {
            const vec each = spread(x[row * in + at]);
            UNROLL
            for (int v = 0; v < VECTORS_OF_PANEL; v++)
                own[row * VECTORS_OF_PANEL + v] += each * numbers[v];
        }
    }
    UNROLL
    for (int i = 0; i < count * VECTORS_OF_PANEL; i++)
        store(sums, i * WIDTH, own[i], 0);
}

/* sums (rows, PANEL) of at most ROWS_OF_GROUP rows of x with a panel. */
INLINE void passes(const int is_int8, int rows, const float *x, int64_t in, const char *panel,
                   float *sums) {
    const int several = (rows + ROWS_OF_PASS - 1) / ROWS_OF_PASS;
    const int bytes = is_int8 ? PANEL : 4 * PANEL, stride = bytes / several;
    memset(sums, 0, (size_t)rows * PANEL * sizeof *sums);
    for (int64_t first = 0; first < in; first += DEPTH, panel += DEPTH * bytes) {
        const int depth = in - first < DEPTH ? (int)(in - first) : DEPTH;
        const char *ahead = panel + 2 * DEPTH * bytes;
        for (int done = 0, row = 0, count; done < several; done++, row += count) {
            count = (rows - row) / (several - done);
#define PASS(n)                                                                                  \
    case n:                                                                                      \
        pass(is_int8, n, x + row * in + first, in, depth, panel, ahead, stride, sums + row * PANEL); \
        break;
            switch (count) {
                PASS(1)
                PASS(2)
#if WIDTH >= 8
                PASS(3)
#endif
#if WIDTH == 16
                PASS(4)
                PASS(5)
                PASS(6)
                PASS(7)
                PASS(8)
                PASS(9)
                PASS(10)
                PASS(11)
                PASS(12)
#endif
            default: break;
            }
#undef PASS
            ahead += (int64_t)stride * depth;
        }
    }
}

/* Put the sums of some rows with a panel where they belong in y. */
INLINE void put(int rows, const float *sums, const float *scale, int column, int out, char *y,
                int64_t at, int is_bf16) {
    for (int row = 0; row < rows; row++, at += out)
        for (int v = 0; v < VECTORS_OF_PANEL; v++) {
            const int first = column + v * WIDTH, left = out - first;
            if (left <= 0)
                continue;
            vec sum = load(sums, row * PANEL + v * WIDTH, 0);
            if (scale)
                sum *= load_some(scale, first, left < WIDTH ? left : WIDTH, 0);
            if (left >= WIDTH)
                store(y, at + first, sum, is_bf16);
            else
                store_some(y, at + first, left, sum, is_bf16);
        }
}

TARGET static void NAME(product)(int rows, int in, int out, int threads, const float *x,
                                 const void *matrix, const float *scale, void *y, int is_bf16) {
    const int panels = (out + PANEL - 1) / PANEL, size = is_bf16 ? 2 : 4;
    const int64_t panel_bytes = (int64_t)in * PANEL * (scale ? 1 : 4);
    (void)threads; /* where there is no OpenMP */
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads) schedule(dynamic) if (threads > 1)
#endif
    for (int number = 0; number < panels; number++) {
        const char *panel = (const char *)matrix + number * panel_bytes;
        float sums[ROWS_OF_GROUP * PANEL] __attribute__((aligned(64)));
        for (int row = 0; row < rows; row += ROWS_OF_GROUP) {
            const int count = rows - row < ROWS_OF_GROUP ? rows - row : ROWS_OF_GROUP;
            const float *from = x + (int64_t)row * in;
            for (int one = 0; one < count; one++) { /* else storing waits for it */
                const char *to = (char *)y + size * ((int64_t)(row + one) * out + number * PANEL);
                __builtin_prefetch(to, 1);
                __builtin_prefetch(to + size * PANEL / 2, 1);
            }
            if (scale)
                passes(1, count, from, in, panel, sums);
            else
                passes(0, count, from, in, panel, sums);
            put(count, sums, scale, number * PANEL, out, y, (int64_t)row * out, is_bf16);
        }
    }
}
