/* Causal attention over a paged cache, a few queries that share their keys at a time.
 *
 * All scores of a query are kept until its softmax is known: two passes over the cache, no
 * rescaling. Numbers beyond a query's own position weigh exactly 0, so the company of later queries
 * changes nothing.
 */

#undef VECTORS_AT_ONCE
#undef LANES_OF_BLOCK
#undef score
#undef softmax
#undef gather
#undef attend_some
#undef attend_all
#define VECTORS_AT_ONCE (WIDTH == 16 ? 4 : 2)
#define LANES_OF_BLOCK (BLOCK / WIDTH)
#define score NAME(score)
#define softmax NAME(softmax)
#define gather NAME(gather)
#define attend_some NAME(attend_some)
#define attend_all NAME(attend_all)

/* scores (count, stride): of `count` queries (count, dim) with one block of keys (dim, BLOCK). */
INLINE void score(const int count, const float *queries, int dim, const void *keys, float *scores,
                  int64_t stride, int is_bf16) {
    for (int lane = 0; lane < LANES_OF_BLOCK; lane++) {
        vec even[QUERIES_AT_ONCE], odd[QUERIES_AT_ONCE]; /* two chains each, to hide latency */
        UNROLL
        for (int q = 0; q < count; q++)
            even[q] = odd[q] = (vec){0};
        for (int i = 0; i < dim; i += 2) { /* dim is even: rotation halves it */
            vec first = load(keys, (int64_t)i * BLOCK + lane * WIDTH, is_bf16);
            vec second = load(keys, (int64_t)(i + 1) * BLOCK + lane * WIDTH, is_bf16);
            UNROLL
            for (int q = 0; q < count; q++) {
                even[q] += queries[q * dim + i] * first;
                odd[q] += queries[q * dim + i + 1] * second;
            }
        }
        for (int q = 0; q < count; q++)
            store(scores, q * stride + lane * WIDTH, even[q] + odd[q], 0);
    }
}

/* Turn the first `length` of `padded` scores into weights that still lack the returned factor. */
INLINE float softmax(float *scores, int length, int padded) {
    for (int i = length; i < padded; i++)
        scores[i] = -INFINITY;
    vec highest = spread(-INFINITY);
    for (int i = 0; i < padded; i += WIDTH)
        highest = larger(highest, load(scores, i, 0));
    float shift = most(highest);
    vec sum = {0};
    for (int i = 0; i < padded; i += WIDTH) {
        vec weight = exponential(load(scores, i, 0) - shift);
        sum += weight;
        store(scores, i, weight, 0);
    }
    return 1.0f / total(sum);
}

/* sums (count, VECTORS_AT_ONCE): the columns from `column` on of all values, weighted. */
INLINE void gather(const int count, const int vectors, const float *weights, int64_t stride,
                   int length, const char *values, const int32_t *table, int64_t block_stride,
                   int64_t row_stride, int column, vec *sums, int is_bf16) {
    vec kept[QUERIES_AT_ONCE * VECTORS_AT_ONCE];
    UNROLL
    for (int i = 0; i < count * vectors; i++)
        kept[i] = (vec){0};
    for (int from = 0; from < length; from += BLOCK) {
        const char *block = values + table[from / BLOCK] * block_stride;
        int here = length - from < BLOCK ? length - from : BLOCK;
        for (int j = 0; j < here; j++)
            UNROLL
            for (int v = 0; v < vectors; v++) {
                vec value = load(block, j * row_stride + column + v * WIDTH, is_bf16);
                UNROLL
                for (int q = 0; q < count; q++)
                    kept[q * vectors + v] += weights[q * stride + from + j] * value;
            }
    }
    for (int i = 0; i < count * vectors; i++)
        sums[i] = kept[i];
}

/* `count` queries of one KV head: query q is head q % group of row first + q / group. */
INLINE void attend_some(const int count, const struct heads *heads, const struct chunk_plan *plan,
                        int chunk, int kv_head, int first, const char *qkv, const char *keys,
                        const char *values, char *out, float *scratch, int is_bf16) {
    const int size = is_bf16 ? 2 : 4, dim = heads->head_dim, group = heads->heads / heads->kv_heads;
    const int64_t width = (int64_t)(heads->heads + 2 * heads->kv_heads) * dim;
    const int32_t *table = plan->tables + plan->table_start[chunk];
    const int start = plan->start[chunk];
    const int length = start + (first + count - 1) / group + 1; /* of the last query */
    const int padded = (length + BLOCK - 1) / BLOCK * BLOCK;
    const float scale = 1.0f / sqrtf((float)dim);
    const int64_t key_stride = (int64_t)heads->kv_heads * dim * BLOCK;
    const int64_t value_stride = (int64_t)heads->kv_heads * BLOCK * heads->head_stride;
    float *queries = scratch, *scores = scratch + QUERIES_AT_ONCE * heads->head_stride;
    float factor[QUERIES_AT_ONCE];

    for (int q = 0; q < count; q++) {
        int64_t at = (plan->first_row[chunk] + (first + q) / group) * width +
                     (int64_t)(kv_head * group + (first + q) % group) * dim;
        for (int i = 0; i < dim; i++) {
            uint32_t raw = is_bf16 ? (uint32_t)((const uint16_t *)qkv)[at + i] << 16 : 0;
            float value;
            memcpy(&value, is_bf16 ? (const void *)&raw : (const float *)qkv + at + i, 4);
            queries[q * dim + i] = value * scale;
        }
    }
    for (int from = 0; from < length; from += BLOCK)
        score(count, queries, dim,
              keys + size * (table[from / BLOCK] * key_stride + (int64_t)kv_head * dim * BLOCK),
              scores + from, padded, is_bf16);
    for (int q = 0; q < count; q++)
        factor[q] = softmax(scores + (int64_t)q * padded, start + (first + q) / group + 1, padded);

    const char *own = values + size * (int64_t)kv_head * BLOCK * heads->head_stride;
    for (int column = 0; column < dim;) {
        vec sums[QUERIES_AT_ONCE * VECTORS_AT_ONCE];
        int vectors = dim - column >= VECTORS_AT_ONCE * WIDTH ? VECTORS_AT_ONCE : 1;
        if (vectors > 1)
            gather(count, VECTORS_AT_ONCE, scores, padded, length, own, table, size * value_stride,
                   heads->head_stride, column, sums, is_bf16);
        else
            gather(count, 1, scores, padded, length, own, table, size * value_stride,
                   heads->head_stride, column, sums, is_bf16);
        for (int q = 0; q < count; q++) {
            int64_t to = ((plan->first_row[chunk] + (first + q) / group) * (int64_t)heads->heads +
                          kv_head * group + (first + q) % group) * dim + column;
            for (int v = 0; v < vectors; v++) {
                int left = dim - column - v * WIDTH;
                vec sum = sums[q * vectors + v] * factor[q];
                if (left >= WIDTH)
                    store(out, to + v * WIDTH, sum, is_bf16);
                else
                    store_some(out, to + v * WIDTH, left, sum, is_bf16);
            }
        }
        column += vectors * WIDTH;
    }
}

INLINE void attend_all(const struct heads *heads, const struct chunk_plan *plan, const char *qkv,
                       const char *keys, const char *values, char *out, int is_bf16) {
    const int group = heads->heads / heads->kv_heads, kv_heads = heads->kv_heads;
#ifdef _OPENMP
#pragma omp parallel for num_threads(plan->threads) schedule(dynamic) if (plan->threads > 1)
#endif
    for (int item = 0; item < plan->chunks * kv_heads; item++) {
        float *scratch = plan->scratch + THREAD * plan->scratch_stride;
        int chunk = item / kv_heads, kv_head = item % kv_heads;
        int queries = plan->rows[chunk] * group;
        for (int first = 0; first < queries; first += QUERIES_AT_ONCE) {
            int count = queries - first < QUERIES_AT_ONCE ? queries - first : QUERIES_AT_ONCE;
#define ATTEND(n) \
    attend_some(n, heads, plan, chunk, kv_head, first, qkv, keys, values, out, scratch, is_bf16)
            switch (count) {
            case 4: ATTEND(4); break;
            case 3: ATTEND(3); break;
            case 2: ATTEND(2); break;
            default: ATTEND(1);
            }
#undef ATTEND
        }
    }
}

TARGET static void NAME(attend)(const struct heads *heads, const struct chunk_plan *plan,
                                const void *qkv, const void *keys, const void *values, void *out) {
    if (heads->is_bf16)
        attend_all(heads, plan, qkv, keys, values, out, 1);
    else
        attend_all(heads, plan, qkv, keys, values, out, 0);
}
