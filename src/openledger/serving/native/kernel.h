/* What the arithmetic in C and its caller share; `library.py` declares the same records.
 *
 * Numbers are float32, or bfloat16 where a record or argument says so; sums are float32. Every sum
 * over a row runs in an order that depends on that row alone, so what else is in a batch changes
 * no bit of it.
 */
#ifndef OPENLEDGER_KERNEL_H
#define OPENLEDGER_KERNEL_H

#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define TARGETS 7         /* q, k, v, o, gate, up, down: the linear layers of one decoder layer */
#define TARGETS_AT_ONCE 3 /* at most, of one fused matrix */
#define TILE 32           /* numbers of a rank of a packed factor that lie together */
#define ROWS_AT_ONCE 4    /* of one tile of an adapter plan */
#define STREAMS 8         /* tiles of a plan whose adapters are read in turns */
#define MOST_MEMBERS 64   /* of a mix; the caller refuses more */
#define BLOCK 16          /* positions in one block of the KV cache */
#define QUERIES_AT_ONCE 4
#define PANEL 32          /* outputs of a matrix whose numbers lie together */

/* A number of a factor whose upper byte is not in the factor's table: its column among the inputs of
 * A or the outputs of B, and its bits. */
struct stray {
    int32_t column;
    uint16_t rank;
    uint16_t bits;
};

/* One member of a mix. The factors of pair p = layer * TARGETS + target begin at quads + offsets[p],
 * A before B, or are absent if that is negative. Factor f, 2p for A and 2p + 1 for B, has the table
 * uppers[16 f..16 (f + 1)] and strays[first_stray[f]..first_stray[f + 1]], by column. */
struct entry {
    const uint8_t *quads;
    const int64_t *offsets;
    const uint8_t *uppers;
    const int32_t *first_stray;
    const struct stray *strays;
    int32_t rank;
    float weight; /* alpha / rank included */
};

/* Which rows get which adapters: tile t is rows[row_start[t]..row_start[t + 1]], at most
 * ROWS_AT_ONCE, each with the sum of entries[entry_start[t]..entry_start[t + 1]]. Part p is tiles
 * part_start[p] to part_start[p + 1]: one, or at most STREAMS with one entry each. */
struct adapter_plan {
    int32_t parts;
    int32_t threads;
    const int32_t *part_start;
    const int32_t *row_start;
    const int32_t *rows;
    const int32_t *entry_start;
    const struct entry *entries;
    float *scratch;
    int64_t scratch_stride; /* numbers of each thread */
    int32_t is_bf16;
};

/* One fused matrix: y[:, column[t]..column[t] + out[t]] belongs to target first_target + t. */
struct site {
    int32_t first_target;
    int32_t targets;
    int32_t in;
    int32_t stride; /* of y */
    int32_t out[TARGETS_AT_ONCE];
    int32_t column[TARGETS_AT_ONCE];
};

/* The heads of a model. */
struct heads {
    int32_t heads;
    int32_t kv_heads;
    int32_t head_dim;
    int32_t head_stride; /* head_dim up to a multiple of 16: of V in the cache */
    int32_t is_bf16;
    const float *cosines; /* (context, head_dim / 2) */
    const float *sines;
};

/* A step's chunks: rows[c] rows from first_row[c] on, at positions from start[c] on, in the blocks
 * tables[table_start[c]..]. */
struct chunk_plan {
    int32_t chunks;
    int32_t threads;
    const int32_t *first_row;
    const int32_t *rows;
    const int32_t *start;
    const int32_t *table_start;
    const int32_t *tables;
    float *scratch;
    int64_t scratch_stride; /* numbers of each thread */
};

/* Loops over registers: unless they are unrolled, sums lie in memory. */
#ifdef __clang__ /* which takes the other as a wish */
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif

#ifdef _OPENMP
#include <omp.h>
#define THREAD omp_get_thread_num()
#else
#define THREAD 0
#endif

#endif
