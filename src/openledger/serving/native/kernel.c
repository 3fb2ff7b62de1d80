/* The arithmetic around a model's matrix products, for each instruction set that a CPU may have.
 *
 * One source is compiled for all of them (`lanes.h`, `rows.h`, `attention.h`, `lora.h` are included
 * once each), so the machine that compiles need not be the one that runs; the caller chooses.
 */
#include "kernel.h"

#define CONCAT(a, b) a##b
#define JOIN(a, b) CONCAT(a, b)
#define NAME(name) JOIN(name, SUFFIX)

#define SUFFIX _plain
#define WIDTH 4
#define TARGET
#include "lanes.h"
#include "rows.h"
#include "attention.h"
#include "lora.h"
#include "product.h"
#undef SUFFIX
#undef WIDTH
#undef TARGET

#if defined(__x86_64__)

#define SUFFIX _avx2
#define WIDTH 8
#define TARGET __attribute__((target("avx2,fma")))
#include "lanes.h"
#include "rows.h"
#include "attention.h"
#include "lora.h"
#include "product.h"
#undef SUFFIX
#undef WIDTH
#undef TARGET

#define SUFFIX _avx512
#define WIDTH 16
#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")))
#include "lanes.h"
#include "rows.h"
#include "attention.h"
#include "lora.h"
#include "product.h"
#undef SUFFIX
#undef WIDTH
#undef TARGET

#endif

/* The widest instruction set of this CPU: 0 plain, 1 AVX2 with FMA, 2 AVX-512. */
int32_t openledger_widest(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
        return 2;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return 1;
#endif
    return 0;
}

int32_t openledger_has_threads(void) {
#ifdef _OPENMP
    return 1;
#else
    return 0;
#endif
}

#if defined(__x86_64__)
#define DISPATCH(name, ...)                      \
    switch (path) {                              \
    case 2: name##_avx512(__VA_ARGS__); break;   \
    case 1: name##_avx2(__VA_ARGS__); break;     \
    default: name##_plain(__VA_ARGS__);          \
    }
#else
#define DISPATCH(name, ...) \
    (void)path;             \
    name##_plain(__VA_ARGS__);
#endif

/* residual += added (if any); normed = residual / rms(residual) * weight. */
void openledger_norm(int32_t path, int32_t rows, int32_t width, float epsilon, float *residual,
                     const void *added, const float *weight, void *normed, int32_t is_bf16) {
    DISPATCH(norm, rows, width, epsilon, residual, added, weight, normed, is_bf16)
}

/* out[row, i] = silu(gate_up[row, i]) * gate_up[row, width + i]. */
void openledger_gate(int32_t path, int32_t rows, int32_t width, const void *gate_up, void *out,
                     int32_t is_bf16) {
    DISPATCH(gate, rows, width, gate_up, out, is_bf16)
}

/* Turn the queries and keys of qkv by their positions, the queries in place, and put keys and
 * values into one layer's cache: keys (blocks, kv_heads, head_dim, BLOCK), values (blocks,
 * kv_heads, BLOCK, head_stride). */
void openledger_rotate(int32_t path, const struct heads *heads, const struct chunk_plan *plan,
                       void *qkv, void *keys, void *values) {
    DISPATCH(rotate, heads, plan, qkv, keys, values)
}

/* Causal attention of every row over its own sequence's cache; out is (rows, heads * head_dim). */
void openledger_attend(int32_t path, const struct heads *heads, const struct chunk_plan *plan,
                       const void *qkv, const void *keys, const void *values, void *out) {
    DISPATCH(attend, heads, plan, qkv, keys, values, out)
}

/* y[row] += sum over the row's entries of weight * B A x[row], for every target of a site. */
void openledger_lora(int32_t path, const struct adapter_plan *plan, const struct site *site,
                     int32_t layer, const void *x, void *y) {
    DISPATCH(lora, plan, site, layer, x, y)
}

/* y (rows, out) = x (rows, in) times a matrix in panels (out / PANEL, in, PANEL): of float32, or of
 * 8-bit numbers if there is a scale for each output; x and the scales are float32. */
void openledger_product(int32_t path, int32_t rows, int32_t in, int32_t out, int32_t threads,
                        const float *x, const void *matrix, const float *scale, void *y,
                        int32_t is_bf16) {
    DISPATCH(product, rows, in, out, threads, x, matrix, scale, y, is_bf16)
}
