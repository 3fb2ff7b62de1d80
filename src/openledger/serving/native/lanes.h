/* Vectors as wide as the instruction set has them, and bfloat16 in and out of them.
 *
 * Included once for each instruction set, which WIDTH, TARGET and NAME tell.
 */
#undef INLINE
#undef vec
#undef words
#undef halves
#define INLINE static inline __attribute__((always_inline)) TARGET

typedef float NAME(vec) __attribute__((vector_size(4 * WIDTH)));
typedef uint32_t NAME(words) __attribute__((vector_size(4 * WIDTH)));
typedef uint16_t NAME(halves) __attribute__((vector_size(2 * WIDTH)));
#define vec NAME(vec)
#define words NAME(words)
#define halves NAME(halves)

#undef load
#undef store
#undef store_number
#undef load_some
#undef store_some
#undef spread
#undef choose
#undef larger
#undef total
#undef most
#undef exponential
#undef widened
#undef narrowed
#define load NAME(load)
#define store NAME(store)
#define store_number NAME(store_number)
#define load_some NAME(load_some)
#define store_some NAME(store_some)
#define spread NAME(spread)
#define choose NAME(choose)
#define larger NAME(larger)
#define total NAME(total)
#define most NAME(most)
#define exponential NAME(exponential)
#define widened NAME(widened)
#define narrowed NAME(narrowed)

INLINE vec spread(float value) {
    return value - (vec){0};
}

INLINE vec choose(words mask, vec yes, vec no) {
    return (vec)((mask & (words)yes) | (~mask & (words)no));
}

INLINE vec larger(vec a, vec b) {
    return choose((words)(a > b), a, b);
}

INLINE vec widened(halves raw) {
    return (vec)(__builtin_convertvector(raw, words) << 16);
}

/* Rounded to the nearest, ties to even; what is no number stays none. */
INLINE halves narrowed(vec value) {
    words raw = (words)value;
    words rounded = (raw + 0x7fff + ((raw >> 16) & 1)) >> 16;
    words is_number = (words)(value == value);
    return __builtin_convertvector((is_number & rounded) | (~is_number & 0x7fc0), halves);
}

/* Numbers i to i + WIDTH of an array. */
INLINE vec load(const void *array, int64_t i, int is_bf16) {
    if (is_bf16) {
        halves raw;
        memcpy(&raw, (const uint16_t *)array + i, sizeof raw);
        return widened(raw);
    }
    vec value;
    memcpy(&value, (const float *)array + i, sizeof value);
    return value;
}

INLINE void store(void *array, int64_t i, vec value, int is_bf16) {
    if (is_bf16) {
        halves raw = narrowed(value);
        memcpy((uint16_t *)array + i, &raw, sizeof raw);
    } else {
        memcpy((float *)array + i, &value, sizeof value);
    }
}

INLINE void store_number(void *array, int64_t i, float value, int is_bf16) {
    if (is_bf16) {
        halves raw = narrowed(spread(value));
        ((uint16_t *)array)[i] = raw[0];
    } else {
        ((float *)array)[i] = value;
    }
}

/* The same for the last `count` < WIDTH numbers of a row; the others read as 0. */
INLINE vec load_some(const void *array, int64_t i, int count, int is_bf16) {
    if (is_bf16) {
        halves raw = {0};
        memcpy(&raw, (const uint16_t *)array + i, 2 * (size_t)count);
        return widened(raw);
    }
    vec value = {0};
    memcpy(&value, (const float *)array + i, 4 * (size_t)count);
    return value;
}

INLINE void store_some(void *array, int64_t i, int count, vec value, int is_bf16) {
    if (is_bf16) {
        halves raw = narrowed(value);
        memcpy((uint16_t *)array + i, &raw, 2 * (size_t)count);
    } else {
        memcpy((float *)array + i, &value, 4 * (size_t)count);
    }
}

/* Pairs far apart first, always in this order. */
INLINE float total(vec value) {
#if WIDTH == 16 && !defined(__clang__) /* clang has other shuffles; the order is the same */
    value += __builtin_shuffle(value, (words){8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7});
    value += __builtin_shuffle(value, (words){4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3});
    value += __builtin_shuffle(value, (words){2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1});
    value += __builtin_shuffle(value, (words){1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0});
    return value[0];
#else
    float each[WIDTH];
    memcpy(each, &value, sizeof each);
    for (int half = WIDTH / 2; half; half /= 2)
        for (int i = 0; i < half; i++)
            each[i] += each[i + half];
    return each[0];
#endif
}

INLINE float most(vec value) {
    float found = value[0];
    for (int i = 1; i < WIDTH; i++)
        found = value[i] > found ? value[i] : found;
    return found;
}

/* e to the x within 2 units in the last place; 0 below -87, so also for minus infinity. */
INLINE vec exponential(vec x) {
    const float magic = 12582912.0f; /* 1.5 * 2**23: adding it rounds to a whole number */
    words is_tiny = (words)(x < -87.0f);
    vec bounded = choose((words)(x > 88.0f), spread(88.0f), choose(is_tiny, spread(-87.0f), x));
    vec whole = (bounded * 1.44269504088896341f + magic) - magic;
    vec rest = bounded - whole * 0.693359375f;
    rest = rest + whole * 2.12194440e-4f;
    vec sum = spread(1.9875691500e-4f); /* the polynomial of Cephes' expf */
    sum = sum * rest + 1.3981999507e-3f;
    sum = sum * rest + 8.3334519073e-3f;
    sum = sum * rest + 4.1665795894e-2f;
    sum = sum * rest + 1.6666665459e-1f;
    sum = sum * rest + 5.0000001201e-1f;
    sum = sum * (rest * rest) + rest + 1.0f;
    words power = ((words)(whole + (magic + 127.0f)) << 23); /* 2**whole, from the lowest bits */
    return choose(is_tiny, spread(0.0f), sum * (vec)power);
}
