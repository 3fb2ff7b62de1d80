/* What each row goes through alone: normalisation, gating, rotation into the cache. */

#undef norm_rows
#undef gate_rows
#undef rotate_head
#undef rotate_rows
#define norm_rows NAME(norm_rows)
#define gate_rows NAME(gate_rows)
#define rotate_head NAME(rotate_head)
#define rotate_rows NAME(rotate_rows)

INLINE void norm_rows(int rows, int width, float epsilon, float *residual, const void *added,
                      const float *weight, void *normed, int is_bf16) {
    int whole = width / WIDTH * WIDTH, rest = width - whole;
    for (int row = 0; row < rows; row++) {
        int64_t at = (int64_t)row * width;
        vec squares = {0};
        for (int i = 0; i < whole; i += WIDTH) {
            vec x = load(residual, at + i, 0);
            if (added) {
                x += load(added, at + i, is_bf16);
                store(residual, at + i, x, 0);
            }
            squares += x * x;
        }
        if (rest) {
            vec x = load_some(residual, at + whole, rest, 0);
            if (added) {
                x += load_some(added, at + whole, rest, is_bf16);
                store_some(residual, at + whole, rest, x, 0);
            }
            squares += x * x;
        }
        float scale = 1.0f / sqrtf(total(squares) / (float)width + epsilon);
        for (int i = 0; i < whole; i += WIDTH)
            store(normed, at + i, load(residual, at + i, 0) * scale * load(weight, i, 0), is_bf16);
        if (rest)
            store_some(normed, at + whole, rest,
                       load_some(residual, at + whole, rest, 0) * scale *
                           load_some(weight, whole, rest, 0),
                       is_bf16);
    }
}

TARGET static void NAME(norm)(int rows, int width, float epsilon, float *residual,
                              const void *added, const float *weight, void *normed, int is_bf16) {
    if (is_bf16)
        norm_rows(rows, width, epsilon, residual, added, weight, normed, 1);
    else
        norm_rows(rows, width, epsilon, residual, added, weight, normed, 0);
}

INLINE void gate_rows(int rows, int width, const void *gate_up, void *out, int is_bf16) {
    int whole = width / WIDTH * WIDTH, rest = width - whole;
    for (int row = 0; row < rows; row++) {
        int64_t gate = (int64_t)row * 2 * width, up = gate + width, to = (int64_t)row * width;
        for (int i = 0; i < whole; i += WIDTH) {
            vec g = load(gate_up, gate + i, is_bf16);
            vec silu = g / (exponential(-g) + 1.0f);
            store(out, to + i, silu * load(gate_up, up + i, is_bf16), is_bf16);
        }
        if (rest) {
            vec g = load_some(gate_up, gate + whole, rest, is_bf16);
            vec silu = g / (exponential(-g) + 1.0f);
            store_some(out, to + whole, rest, silu * load_some(gate_up, up + whole, rest, is_bf16),
                       is_bf16);
        }
    }
}

TARGET static void NAME(gate)(int rows, int width, const void *gate_up, void *out, int is_bf16) {
    if (is_bf16)
        gate_rows(rows, width, gate_up, out, 1);
    else
        gate_rows(rows, width, gate_up, out, 0);
}

/* The halves of a head as real and imaginary parts, turned by the angles of one position. */
INLINE void rotate_head(void *to, int64_t to_at, const void *from, int64_t from_at,
                        const float *cosine, const float *sine, int half, int is_bf16) {
    int whole = half / WIDTH * WIDTH, rest = half - whole;
    for (int i = 0; i < whole; i += WIDTH) {
        vec c = load(cosine, i, 0), s = load(sine, i, 0);
        vec a = load(from, from_at + i, is_bf16), b = load(from, from_at + half + i, is_bf16);
        store(to, to_at + i, a * c - b * s, is_bf16);
        store(to, to_at + half + i, b * c + a * s, is_bf16);
    }
    if (rest) {
        vec c = load_some(cosine, whole, rest, 0), s = load_some(sine, whole, rest, 0);
        vec a = load_some(from, from_at + whole, rest, is_bf16);
        vec b = load_some(from, from_at + half + whole, rest, is_bf16);
        store_some(to, to_at + whole, rest, a * c - b * s, is_bf16);
        store_some(to, to_at + half + whole, rest, b * c + a * s, is_bf16);
    }
}

INLINE void rotate_rows(const struct heads *heads, const struct chunk_plan *plan, char *qkv,
                        char *keys, char *values, int is_bf16) {
    const int size = is_bf16 ? 2 : 4, dim = heads->head_dim, half = dim / 2;
    const int64_t width = (int64_t)(heads->heads + 2 * heads->kv_heads) * dim;
    for (int chunk = 0; chunk < plan->chunks; chunk++) {
        const int32_t *table = plan->tables + plan->table_start[chunk];
        for (int row = 0; row < plan->rows[chunk]; row++) {
            int position = plan->start[chunk] + row, slot = position % BLOCK;
            const float *cosine = heads->cosines + (int64_t)position * half;
            const float *sine = heads->sines + (int64_t)position * half;
            int64_t at = (plan->first_row[chunk] + row) * width;
            int64_t block = (int64_t)table[position / BLOCK] * heads->kv_heads;
            for (int head = 0; head < heads->heads + heads->kv_heads; head++, at += dim)
                rotate_head(qkv, at, qkv, at, cosine, sine, half, is_bf16);
            const char *key = qkv + size * (at - (int64_t)heads->kv_heads * dim);
            const char *value = qkv + size * at;
            for (int head = 0; head < heads->kv_heads; head++, key += size * dim) {
                char *to = keys + size * ((block + head) * dim * BLOCK + slot);
                for (int i = 0; i < dim; i++)
                    memcpy(to + size * i * BLOCK, key + size * i, (size_t)size);
                memcpy(values + size * ((block + head) * BLOCK + slot) * heads->head_stride,
                       value + size * head * dim, (size_t)(size * dim));
            }
        }
    }
}

TARGET static void NAME(rotate)(const struct heads *heads, const struct chunk_plan *plan, void *qkv,
                                void *keys, void *values) {
    if (heads->is_bf16)
        rotate_rows(heads, plan, qkv, keys, values, 1);
    else
        rotate_rows(heads, plan, qkv, keys, values, 0);
}
