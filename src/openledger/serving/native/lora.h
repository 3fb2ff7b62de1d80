/* Low-rank deltas for rows that each have their own mix of adapters.
 *
 * A packed factor is a stream of tiles of TILE bfloat16 numbers, read once from front to back:
 * A as groups of 8, 4, 2 or 1 ranks (`group_of`), each group (in / TILE, ranks, TILE); B transposed
 * as (out / TILE, rank, TILE). In a tile number 2i is the i-th and 2i + 1 the (i + 16)-th, so that
 * a shift and a mask make floats of two vectors. The last tile of a row is filled up with zeros.
 */

#undef VECTORS_OF_TILE
#undef halves_of
#undef project
#undef project_rows
#undef expand
#undef rows_of
#undef lora_tile
#undef lora_all
#define VECTORS_OF_TILE (TILE / 2 / WIDTH)
#define halves_of NAME(halves_of)
#define project NAME(project)
#define project_rows NAME(project_rows)
#define expand NAME(expand)
#define rows_of NAME(rows_of)
#define lora_tile NAME(lora_tile)
#define lora_all NAME(lora_all)

#ifndef OPENLEDGER_GROUP
#define OPENLEDGER_GROUP
#define AHEAD 1024 /* numbers that are fetched before they are used, where no entry follows */
#define FETCH(from) __builtin_prefetch(from, 0, 2) /* no nearer than the second-level cache */

static inline int group_of(int ranks) {
    return ranks >= 8 ? 8 : ranks >= 4 ? 4 : ranks >= 2 ? 2 : 1;
}

static inline int64_t tiled(int width) {
    return (width + TILE - 1) / TILE * TILE;
}

/* Numbers from the factors of `one` to those that are fetched while they are read: those of the
 * entry that follows, unless it is the same adapter or another thread may come to read it. */
static inline int64_t ahead_of(const struct adapter_plan *plan, const struct entry *one, int at) {
    const struct entry *next = one + 1;
    if (plan->threads > 1 || next == plan->entries + plan->entry_start[plan->tiles] ||
        next->base == one->base || next->offsets[at] < 0)
        return AHEAD;
    return (next->base + next->offsets[at]) - (one->base + one->offsets[at]);
}
#endif

/* Vector v of the lower and of the upper half of a tile. */
INLINE void halves_of(const uint16_t *tile, int v, vec *low, vec *high) {
    words raw;
    memcpy(&raw, tile + v * 2 * WIDTH, sizeof raw);
    *low = (vec)(raw << 16);
    *high = (vec)(raw & 0xffff0000u);
}

/* products (ranks, ROWS_AT_ONCE) = weight * one group of ranks of A times `count` rows of x. */
INLINE void project(const int count, const int ranks, const float *x, int64_t width,
                    const uint16_t *a, int64_t ahead, float *products, float weight) {
    vec sums[8 * 2];
    UNROLL
    for (int i = 0; i < ranks * count; i++)
        sums[i] = (vec){0};
    for (int64_t at = 0; at < width; at += TILE)
        UNROLL
        for (int rank = 0; rank < ranks; rank++, a += TILE) {
            FETCH(a + ahead);
            UNROLL
            for (int v = 0; v < VECTORS_OF_TILE; v++) {
                vec low, high;
                halves_of(a, v, &low, &high);
                UNROLL
                for (int row = 0; row < count; row++) {
                    const float *from = x + row * width + at + v * WIDTH;
                    sums[rank * count + row] += load(from, 0, 0) * low;
                    sums[rank * count + row] += load(from, TILE / 2, 0) * high;
                }
            }
        }
    for (int rank = 0; rank < ranks; rank++)
        for (int row = 0; row < count; row++)
            products[rank * ROWS_AT_ONCE + row] = weight * total(sums[rank * count + row]);
}

/* The same for all groups and rows; returns what follows A. */
INLINE const uint16_t *project_rows(int rows, const float *x, int in, int rank, const uint16_t *a,
                                    int64_t ahead, float *products, float weight) {
    const int64_t width = tiled(in);
    for (int first = 0; first < rank;) {
        int ranks = group_of(rank - first);
        for (int row = 0; row < rows;) {
            float *to = products + first * ROWS_AT_ONCE + row;
            const float *from = x + row * width;
            /* The registers of narrower sets hold the sums of one row only. */
            int count = WIDTH == 16 && rows - row >= 2 ? 2 : 1;
#define PROJECT(n)                                                   \
    switch (ranks) {                                                 \
    case 8: project(n, 8, from, width, a, ahead, to, weight); break; \
    case 4: project(n, 4, from, width, a, ahead, to, weight); break; \
    case 2: project(n, 2, from, width, a, ahead, to, weight); break; \
    default: project(n, 1, from, width, a, ahead, to, weight);       \
    }
            if (WIDTH == 16 && count == 2)
                PROJECT(2)
            else
                PROJECT(1)
#undef PROJECT
            row += count;
        }
        a += ranks * width;
        first += ranks;
    }
    return a;
}

/* y (count rows) += the products times B, for all entries at once, one tile of columns after the
 * other: y is rounded once. */
INLINE void expand(const int count, int entries, const uint16_t **b, const int64_t *aheads,
                   const int32_t *ranks, const float *const *products, int out, char *const *y,
                   int is_bf16) {
    for (int column = 0; column < out; column += TILE) {
        vec low[ROWS_AT_ONCE * VECTORS_OF_TILE], high[ROWS_AT_ONCE * VECTORS_OF_TILE];
        UNROLL
        for (int i = 0; i < count * VECTORS_OF_TILE; i++)
            low[i] = high[i] = (vec){0};
        for (int entry = 0; entry < entries; entry++) {
            const uint16_t *tile = b[entry];
            const float *by = products[entry];
            const int64_t ahead = aheads[entry];
            for (int rank = 0; rank < ranks[entry]; rank++, tile += TILE, by += ROWS_AT_ONCE) {
                FETCH(tile + ahead);
                UNROLL
                for (int v = 0; v < VECTORS_OF_TILE; v++) {
                    vec first, second;
                    halves_of(tile, v, &first, &second);
                    UNROLL
                    for (int row = 0; row < count; row++) {
                        low[row * VECTORS_OF_TILE + v] += by[row] * first;
                        high[row * VECTORS_OF_TILE + v] += by[row] * second;
                    }
                }
            }
            b[entry] = tile;
        }
        for (int row = 0; row < count; row++)
            for (int v = 0; v < 2 * VECTORS_OF_TILE; v++) {
                int at = column + v * WIDTH, left = out - at;
                vec sum = v < VECTORS_OF_TILE
                              ? low[row * VECTORS_OF_TILE + v]
                              : high[row * VECTORS_OF_TILE + v - VECTORS_OF_TILE];
                if (left >= WIDTH)
                    store(y[row], at, load(y[row], at, is_bf16) + sum, is_bf16);
                else if (left > 0)
                    store_some(y[row], at, left, load_some(y[row], at, left, is_bf16) + sum,
                               is_bf16);
            }
    }
}

/* (count, in filled up with zeros) in float32: copies, but for one row that is so already. */
INLINE const float *rows_of(int count, const int32_t *rows, const char *x, int in, float *copies,
                            int is_bf16) {
    const int64_t width = tiled(in);
    if (!is_bf16 && count == 1 && in == width)
        return (const float *)x + (int64_t)rows[0] * in;
    for (int row = 0; row < count; row++) {
        int64_t at = (int64_t)rows[row] * in;
        int i = 0;
        for (; i + WIDTH <= in; i += WIDTH)
            store(copies + row * width, i, load(x, at + i, is_bf16), 0);
        if (i < in) {
            store_some(copies + row * width, i, in - i, load_some(x, at + i, in - i, is_bf16), 0);
            for (i = in; i < width; i++)
                copies[row * width + i] = 0;
        } else
            for (; i < width; i++)
                copies[row * width + i] = 0;
    }
    return copies;
}

INLINE void lora_tile(const struct adapter_plan *plan, const struct site *site, int layer, int tile,
                      const char *x, char *y, float *scratch, int is_bf16) {
    const int size = is_bf16 ? 2 : 4, in = site->in;
    const int32_t *rows = plan->rows + plan->row_start[tile];
    const int count = plan->row_start[tile + 1] - plan->row_start[tile];
    const struct entry *entries = plan->entries + plan->entry_start[tile];
    const int members = plan->entry_start[tile + 1] - plan->entry_start[tile];
    const int64_t width = tiled(in);
    const float *floats = rows_of(count, rows, x, in, scratch, is_bf16);
    float *products = scratch + ROWS_AT_ONCE * width;
    const uint16_t *b[TARGETS_AT_ONCE][MOST_MEMBERS];
    int64_t aheads[TARGETS_AT_ONCE][MOST_MEMBERS];
    const float *by[TARGETS_AT_ONCE][MOST_MEMBERS];
    int32_t ranks[TARGETS_AT_ONCE][MOST_MEMBERS];
    int found[TARGETS_AT_ONCE] = {0};

    for (int member = 0; member < members; member++)
        for (int target = 0; target < site->targets; target++) {
            const struct entry *one = entries + member;
            int at = layer * TARGETS + site->first_target + target;
            if (one->offsets[at] < 0)
                continue;
            int place = found[target]++;
            aheads[target][place] = ahead_of(plan, one, at);
            b[target][place] =
                project_rows(count, floats, in, one->rank, one->base + one->offsets[at],
                             aheads[target][place], products, one->weight);
            by[target][place] = products;
            ranks[target][place] = one->rank;
            products += (int64_t)one->rank * ROWS_AT_ONCE;
        }
    for (int target = 0; target < site->targets; target++) {
        char *to[ROWS_AT_ONCE];
        for (int row = 0; row < count; row++)
            to[row] = y + size * ((int64_t)rows[row] * site->stride + site->column[target]);
        int out = site->out[target], terms = found[target];
#define EXPAND(n)                                                                               \
    expand(n, terms, b[target], aheads[target], ranks[target], by[target], out, to, is_bf16)
        switch (terms ? count : 0) {
        case 4: EXPAND(4); break;
        case 3: EXPAND(3); break;
        case 2: EXPAND(2); break;
        case 1: EXPAND(1); break;
        default: break;
        }
#undef EXPAND
    }
}

INLINE void lora_all(const struct adapter_plan *plan, const struct site *site, int layer,
                     const char *x, char *y, int is_bf16) {
#ifdef _OPENMP
#pragma omp parallel for num_threads(plan->threads) schedule(dynamic) if (plan->threads > 1)
#endif
    for (int tile = 0; tile < plan->tiles; tile++)
        lora_tile(plan, site, layer, tile, x, y, plan->scratch + THREAD * plan->scratch_stride,
                  is_bf16);
}

TARGET static void NAME(lora)(const struct adapter_plan *plan, const struct site *site,
                              int32_t layer, const void *x, void *y) {
    if (plan->is_bf16)
        lora_all(plan, site, layer, x, y, 1);
    else
        lora_all(plan, site, layer, x, y, 0);
}
