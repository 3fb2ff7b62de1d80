/* Low-rank deltas for rows that each have their own mix of adapters.
 *
 * A packed factor is a stream of quads, read once from front to back. A quad holds TILE bfloat16
 * numbers of each of four ranks in 12 bits: the lower byte, and the place of the upper byte in a
 * table of 16 that the factor has. A is groups of four ranks, each (in / TILE) quads; B transposed
 * is (out / TILE, groups) quads. Ranks are filled up to fours and rows to whole tiles, with zeros.
 * A number whose upper byte is not in the table is zero in the quad, and a stray beside it.
 *
 * Of the 128 lower bytes of a quad, 64p to 64p + 63 belong to ranks 2p and 2p + 1, in lanes of 16:
 * eight of the one, eight of the other. Lane l has numbers 4l + i at 2i and 4l + i + 16 at 2i + 1,
 * so that interleaving with the upper bytes, a shift and a mask make floats. 64 bytes of places
 * follow, where those of p = 0 are the lower halves of the bytes and those of p = 1 the upper.
 */

#undef VECTORS_OF_TILE
#undef ROWS_OF_PROJECT
#undef bytes
#undef spread_table
#undef looked_up
#undef numbers_of
#undef project
#undef project_rows
#undef only_at
#undef expand
#undef expand_rows
#undef rows_of
#undef project_all
#undef adapt_part
#undef lora_part
#undef lora_all
#define VECTORS_OF_TILE (TILE / 2 / WIDTH)
#define ROWS_OF_PROJECT (WIDTH == 16 ? 4 : 2) /* whose sums the registers hold */
#define bytes NAME(bytes)
#define spread_table NAME(spread_table)
#define looked_up NAME(looked_up)
#define numbers_of NAME(numbers_of)
#define project NAME(project)
#define project_rows NAME(project_rows)
#define only_at NAME(only_at)
#define expand NAME(expand)
#define expand_rows NAME(expand_rows)
#define rows_of NAME(rows_of)
#define project_all NAME(project_all)
#define adapt_part NAME(adapt_part)
#define lora_part NAME(lora_part)
#define lora_all NAME(lora_all)

#ifndef OPENLEDGER_QUAD
#define OPENLEDGER_QUAD
#define QUAD 4 /* ranks that lie together */
#define PLACES_AT (QUAD * TILE)
#define QUAD_BYTES (QUAD * TILE * 3 / 2)
#define TURN_OF_A (2 * TILE) /* columns of a stream before it is the next one's turn */
#define TURN_OF_B TILE
#define AHEAD 512 /* bytes of each stream that are fetched before they are used */

/* A pair of factors of one member, as far as it has been read, and what A made of its rows. */
struct stream {
    const struct entry *entry;
    const uint8_t *quad;
    const struct stray *stray, *strays_end;
    const float *x;  /* (count, in filled up) */
    float *products; /* (rank filled up, ROWS_AT_ONCE) */
    int32_t groups;
    int32_t count; /* rows */
};

static inline int64_t tiled(int width) {
    return (width + TILE - 1) / TILE * TILE;
}

static inline int groups_of(int rank) {
    return (rank + QUAD - 1) / QUAD;
}

static inline float number_of(const struct stray *stray) {
    uint32_t raw = (uint32_t)stray->bits << 16;
    float number;
    memcpy(&number, &raw, sizeof number);
    return number;
}

static inline void take_strays(struct stream *one, int factor) {
    one->stray = one->entry->strays + one->entry->first_stray[factor];
    one->strays_end = one->entry->strays + one->entry->first_stray[factor + 1];
}

static inline void fetch(const uint8_t *quad) {
    for (int line = 0; line < QUAD_BYTES; line += 64)
        __builtin_prefetch(quad + AHEAD + line);
}
#endif

typedef uint8_t bytes __attribute__((vector_size(4 * WIDTH)));

/* The table of a factor in every lane of 16 bytes. */
INLINE bytes spread_table(const struct stream *one, int factor) {
    const uint8_t *table = one->entry->uppers + 16 * (int64_t)factor;
#if WIDTH == 16
    return (bytes)_mm512_broadcast_i32x4(_mm_loadu_si128((const void *)table));
#elif WIDTH == 8
    return (bytes)_mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)table));
#else
    bytes spread;
    memcpy(&spread, table, sizeof spread);
    return spread;
#endif
}

INLINE bytes looked_up(bytes table, bytes places) {
#if WIDTH == 16
    return (bytes)_mm512_shuffle_epi8((__m512i)table, (__m512i)places);
#elif WIDTH == 8
    return (bytes)_mm256_shuffle_epi8((__m256i)table, (__m256i)places);
#elif !defined(__clang__) /* one instruction where there is one, as on aarch64 */
    return __builtin_shuffle(table, places);
#else
    bytes found;
    for (int i = 0; i < 4 * WIDTH; i++)
        found[i] = table[places[i]];
    return found;
#endif
}

/* Vector v of the lower and of the upper half of a tile, for ranks 2 * half and 2 * half + 1. */
INLINE void numbers_of(const uint8_t *quad, const int half, const int v, bytes table, vec *low,
                       vec *high) {
    bytes lower, places, upper;
    words both[2] = {{0}};
    memcpy(&lower, quad + PLACES_AT / 2 * half + v * (int)sizeof lower, sizeof lower);
    memcpy(&places, quad + PLACES_AT + v * (int)sizeof places, sizeof places);
    upper = looked_up(table, half ? places >> 4 : places & 15);
#if WIDTH == 16
    both[0] = (words)_mm512_unpacklo_epi8((__m512i)lower, (__m512i)upper);
    both[1] = (words)_mm512_unpackhi_epi8((__m512i)lower, (__m512i)upper);
#elif WIDTH == 8
    both[0] = (words)_mm256_unpacklo_epi8((__m256i)lower, (__m256i)upper);
    both[1] = (words)_mm256_unpackhi_epi8((__m256i)lower, (__m256i)upper);
#else
    for (int i = 0; i < 2 * WIDTH; i++)
        both[i / WIDTH][i % WIDTH] = lower[2 * i] | (uint32_t)upper[2 * i] << 8 |
                                     (uint32_t)lower[2 * i + 1] << 16 |
                                     (uint32_t)upper[2 * i + 1] << 24;
#endif
    UNROLL
    for (int one = 0; one < 2; one++) {
        low[one] = (vec)(both[one] << 16);
        high[one] = (vec)(both[one] & 0xffff0000u);
    }
}

/* Add to sums (QUAD, count) what some columns of a group of A make of `count` rows of x. */
INLINE void project(const int count, const float *x, int64_t width, int64_t columns,
                    const uint8_t *quad, bytes table, vec *sums) {
    vec own[QUAD * ROWS_AT_ONCE];
    UNROLL
    for (int i = 0; i < QUAD * count; i++)
        own[i] = sums[i];
    for (int64_t at = 0; at < columns; at += TILE, quad += QUAD_BYTES) {
        fetch(quad);
        UNROLL
        for (int v = 0; v < VECTORS_OF_TILE; v++)
            UNROLL
            for (int half = 0; half < 2; half++) {
                vec low[2], high[2];
                numbers_of(quad, half, v, table, low, high);
                UNROLL
                for (int row = 0; row < count; row++) {
                    const float *from = x + row * width + at + v * WIDTH;
                    vec first = load(from, 0, 0), second = load(from, TILE / 2, 0);
                    UNROLL
                    for (int one = 0; one < 2; one++) {
                        own[(2 * half + one) * count + row] += first * low[one];
                        own[(2 * half + one) * count + row] += second * high[one];
                    }
                }
            }
    }
    UNROLL
    for (int i = 0; i < QUAD * count; i++)
        sums[i] = own[i];
}

/* The same for all rows of a stream. */
INLINE void project_rows(const struct stream *one, int64_t at, int64_t width, int64_t columns,
                         bytes table, vec *sums) {
#define PROJECT(n) project(n, from, width, columns, one->quad, table, sums)
    for (int row = 0; row < one->count; row += ROWS_OF_PROJECT, sums += QUAD * ROWS_OF_PROJECT) {
        const float *from = one->x + row * width + at;
        switch (one->count - row) {
        case 1: PROJECT(1); break;
        case 2: PROJECT(2); break;
#if WIDTH == 16
        case 3: PROJECT(3); break;
        default: PROJECT(4);
#else
        default: PROJECT(2);
#endif
        }
    }
#undef PROJECT
}

/* The products of factor A of some streams, a few columns of each in turns: a CPU fetches faster
 * from several places. */
INLINE void project_all(struct stream *streams, int several, int64_t width, int factor) {
    vec sums[STREAMS][QUAD * ROWS_AT_ONCE];
    bytes tables[STREAMS];
    int groups = 0;
    for (int s = 0; s < several; s++) {
        tables[s] = spread_table(streams + s, factor);
        groups = streams[s].groups > groups ? streams[s].groups : groups;
    }
    for (int group = 0; group < groups; group++) {
        memset(sums, 0, (size_t)several * sizeof sums[0]);
        for (int64_t at = 0, columns; at < width; at += columns) {
            columns = several == 1 || width - at < TURN_OF_A ? width - at : TURN_OF_A;
            for (int s = 0; s < several; s++)
                if (group < streams[s].groups) {
                    project_rows(streams + s, at, width, columns, tables[s], sums[s]);
                    streams[s].quad += columns / TILE * QUAD_BYTES;
                }
        }
        for (int s = 0; s < several; s++)
            for (int row = 0; group < streams[s].groups && row < streams[s].count; row++) {
                int first = row / ROWS_OF_PROJECT * ROWS_OF_PROJECT, left = streams[s].count - first;
                int count = left < ROWS_OF_PROJECT ? left : ROWS_OF_PROJECT;
                for (int rank = 0; rank < QUAD; rank++)
                    streams[s].products[(group * QUAD + rank) * ROWS_AT_ONCE + row] =
                        total(sums[s][QUAD * first + rank * count + row - first]);
            }
    }
    for (int s = 0; s < several; s++) {
        struct stream *one = streams + s;
        for (take_strays(one, factor); one->stray < one->strays_end; one->stray++)
            for (int row = 0; row < one->count; row++)
                one->products[one->stray->rank * ROWS_AT_ONCE + row] +=
                    one->x[row * width + one->stray->column] * number_of(one->stray);
        for (int rank = 0; rank < one->groups * QUAD; rank++)
            for (int row = 0; row < one->count; row++)
                one->products[rank * ROWS_AT_ONCE + row] *= one->entry->weight;
    }
}

/* `value` where a vector that begins with number `first` has number `place`, else 0. */
INLINE vec only_at(int first, int place, float value) {
    words numbers;
    UNROLL
    for (int i = 0; i < WIDTH; i++)
        numbers[i] = (uint32_t)(first + i);
    return (vec)((words)(numbers == (uint32_t)place) & (words)spread(value));
}

/* y (count rows) from `column` to `end` += the products of the members of a mix times their B; y is
 * rounded once. */
INLINE void expand(const int count, struct stream *members, int several, int factor, int column,
                   int end, int out, char *const *y, int is_bf16) {
    for (; column < end; column += TILE) {
        vec low[ROWS_AT_ONCE * VECTORS_OF_TILE], high[ROWS_AT_ONCE * VECTORS_OF_TILE];
        UNROLL
        for (int i = 0; i < count * VECTORS_OF_TILE; i++)
            low[i] = high[i] = (vec){0};
        for (struct stream *one = members; one < members + several; one++) {
            const bytes table = spread_table(one, factor);
            const float *by = one->products;
            for (int group = 0; group < one->groups; group++, by += QUAD * ROWS_AT_ONCE) {
                fetch(one->quad);
                UNROLL
                for (int v = 0; v < VECTORS_OF_TILE; v++)
                    UNROLL
                    for (int half = 0; half < 2; half++) {
                        vec first[2], second[2];
                        numbers_of(one->quad, half, v, table, first, second);
                        UNROLL
                        for (int row = 0; row < count; row++)
                            UNROLL
                            for (int rank = 0; rank < 2; rank++) {
                                float times = by[(2 * half + rank) * ROWS_AT_ONCE + row];
                                low[row * VECTORS_OF_TILE + v] += times * first[rank];
                                high[row * VECTORS_OF_TILE + v] += times * second[rank];
                            }
                    }
                one->quad += QUAD_BYTES;
            }
            for (; one->stray < one->strays_end && one->stray->column < column + TILE; one->stray++) {
                const int place = one->stray->column - column;
                UNROLL
                for (int row = 0; row < count; row++) {
                    float added = one->products[one->stray->rank * ROWS_AT_ONCE + row] *
                                  number_of(one->stray);
                    UNROLL
                    for (int v = 0; v < VECTORS_OF_TILE; v++) {
                        low[row * VECTORS_OF_TILE + v] += only_at(v * WIDTH, place, added);
                        high[row * VECTORS_OF_TILE + v] +=
                            only_at(TILE / 2 + v * WIDTH, place, added);
                    }
                }
            }
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

/* One target of some tiles of the plan, whose rows are `floats`. */
INLINE void adapt_part(const struct adapter_plan *plan, const struct site *site, int target,
                       int layer, int first, int tiles, const float *const *floats,
                       float *products, char *y, int is_bf16) {
    const int size = is_bf16 ? 2 : 4, out = site->out[target];
    const int pair = layer * TARGETS + site->first_target + target;
    const int64_t width = tiled(site->in);
    struct stream streams[MOST_MEMBERS];
    int end[STREAMS], found = 0; /* where the streams of each tile end */
    for (int t = 0; t < tiles; t++) {
        int tile = first + t;
        for (int e = plan->entry_start[tile]; e < plan->entry_start[tile + 1]; e++) {
            const struct entry *entry = plan->entries + e;
            if (entry->offsets[pair] < 0)
                continue;
            struct stream *one = streams + found++;
            one->entry = entry;
            one->quad = entry->quads + entry->offsets[pair];
            one->x = floats[t];
            one->products = products;
            one->groups = groups_of(entry->rank);
            one->count = plan->row_start[tile + 1] - plan->row_start[tile];
            products += one->groups * QUAD * ROWS_AT_ONCE;
        }
        end[t] = found;
    }
    for (int s = 0; s < found; s += STREAMS)
        project_all(streams + s, found - s < STREAMS ? found - s : STREAMS, width, 2 * pair);
    for (int s = 0; s < found; s++)
        take_strays(streams + s, 2 * pair + 1);
    for (int column = 0, until; column < out; column = until) {
        until = tiles == 1 || out - column < TURN_OF_B ? out : column + TURN_OF_B;
        for (int t = 0, s = 0; t < tiles; s = end[t++]) {
            char *to[ROWS_AT_ONCE];
            const int32_t *rows = plan->rows + plan->row_start[first + t];
            const int count = plan->row_start[first + t + 1] - plan->row_start[first + t];
            for (int row = 0; row < count; row++)
                to[row] = y + size * ((int64_t)rows[row] * site->stride + site->column[target]);
#define EXPAND(n)                                                                                \
    expand(n, streams + s, end[t] - s, 2 * pair + 1, column, until, out, to, is_bf16)
            switch (end[t] == s ? 0 : count) {
            case 4: EXPAND(4); break;
            case 3: EXPAND(3); break;
            case 2: EXPAND(2); break;
            case 1: EXPAND(1); break;
            default: break;
            }
#undef EXPAND
        }
    }
}

INLINE void lora_part(const struct adapter_plan *plan, const struct site *site, int layer, int part,
                      const char *x, char *y, float *scratch, int is_bf16) {
    const int first = plan->part_start[part], tiles = plan->part_start[part + 1] - first;
    const float *floats[STREAMS];
    for (int t = 0; t < tiles; t++) {
        const int32_t *start = plan->row_start + first + t;
        floats[t] = rows_of(start[1] - start[0], plan->rows + start[0], x, site->in, scratch,
                            is_bf16);
        scratch += ROWS_AT_ONCE * tiled(site->in);
    }
    for (int target = 0; target < site->targets; target++)
        adapt_part(plan, site, target, layer, first, tiles, floats, scratch, y, is_bf16);
}

INLINE void lora_all(const struct adapter_plan *plan, const struct site *site, int layer,
                     const char *x, char *y, int is_bf16) {
#ifdef _OPENMP
#pragma omp parallel for num_threads(plan->threads) schedule(dynamic) if (plan->threads > 1)
#endif
    for (int part = 0; part < plan->parts; part++)
        lora_part(plan, site, layer, part, x, y, plan->scratch + THREAD * plan->scratch_stride,
                  is_bf16);
}

TARGET static void NAME(lora)(const struct adapter_plan *plan, const struct site *site,
                              int32_t layer, const void *x, void *y) {
    if (plan->is_bf16)
        lora_all(plan, site, layer, x, y, 1);
    else
        lora_all(plan, site, layer, x, y, 0);
}
