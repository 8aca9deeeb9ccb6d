// Dot products over rows of float32, bfloat16, float16 or int8, sixteen lanes at a time.
//
// Written with the vector extensions of GCC and Clang: the compiler chooses the instructions of the
// machine it runs on. Every product of a row and a column is summed in one order, whatever the tile
// it stands in, so a token's numbers do not depend on its neighbours.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>

#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace lag {

struct bfloat16 {
    uint16_t bits;
};
struct float16 {
    uint16_t bits;
};

constexpr int64_t LANES = 16;
typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Integers __attribute__((vector_size(64)));
typedef uint32_t Words __attribute__((vector_size(64)));
typedef uint16_t Shorts __attribute__((vector_size(32)));
typedef int16_t Wide __attribute__((vector_size(32)));
typedef int8_t Bytes __attribute__((vector_size(16)));

#ifdef __AVX512F__
constexpr int TILE_ROWS = 8, TILE_COLUMNS = 3;  // 24 of 32 registers hold sums
#else
constexpr int TILE_ROWS = 4, TILE_COLUMNS = 1;
#endif

template <class Vector>
inline Vector load(const void* from) {
    Vector found;
    std::memcpy(&found, from, sizeof found);
    return found;
}

inline Floats floats(const float* from) { return load<Floats>(from); }
inline Floats floats(const int8_t* from) {
#ifdef __AVX512F__
    return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load<__m128i>(from)));
#else
    // GCC makes scalars of a conversion that more than doubles the width.
    const Wide wide = __builtin_convertvector(load<Bytes>(from), Wide);
    return __builtin_convertvector(__builtin_convertvector(wide, Integers), Floats);
#endif
}
inline Floats floats(const bfloat16* from) {
#ifdef __AVX512F__
    // GCC takes five instructions where this is one.
    return (Floats)((Words)_mm512_cvtepu16_epi32(load<__m256i>(from)) << 16);
#else
    return (Floats)(__builtin_convertvector(load<Shorts>(from), Words) << 16);
#endif
}
inline Floats floats(const float16* from) {
#ifdef __AVX512F__
    return (Floats)_mm512_cvtph_ps(load<__m256i>(from));
#else
    const Words bits = __builtin_convertvector(load<Shorts>(from), Words);
    const Words size = bits & 0x7fffu, endless = (Words)(size >= 0x7c00u) & 0x7f800000u;
    const Floats scaled = (Floats)(size << 13) * 0x1p112f;  // what float32's exponents begin below
    return (Floats)((Words)scaled | endless | (bits & 0x8000u) << 16);
#endif
}

// The first n < LANES elements, then zeros.
template <class Element>
inline Floats floats(const Element* from, int64_t n) {
    Element padded[LANES] = {};
    std::memcpy(padded, from, n * sizeof(Element));
    return floats(padded);
}

inline float sum(Floats v) {
    const auto h = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
                   __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
    const auto q = __builtin_shufflevector(h, h, 0, 1, 2, 3) + __builtin_shufflevector(h, h, 4, 5, 6, 7);
    return (q[0] + q[2]) + (q[1] + q[3]);
}

typedef float Octet __attribute__((vector_size(32)));

// The sums of eight vectors, each added up as `sum` does, at a third of the cost.
inline Octet sums_of_eight(const Floats* v) {
    Octet halves[8], quarters[4];
    for (int i = 0; i < 8; ++i)
        halves[i] = __builtin_shufflevector(v[i], v[i], 0, 1, 2, 3, 4, 5, 6, 7) +
                    __builtin_shufflevector(v[i], v[i], 8, 9, 10, 11, 12, 13, 14, 15);
    for (int i = 0; i < 4; ++i)  // of vectors i and i + 4
        quarters[i] =
            __builtin_shufflevector(halves[i], halves[i + 4], 0, 1, 2, 3, 8, 9, 10, 11) +
            __builtin_shufflevector(halves[i], halves[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    auto pairs = [](Octet a, Octet b) {
        return __builtin_shufflevector(a, b, 0, 1, 8, 9, 4, 5, 12, 13) +
               __builtin_shufflevector(a, b, 2, 3, 10, 11, 6, 7, 14, 15);
    };
    const Octet a = pairs(quarters[0], quarters[1]), b = pairs(quarters[2], quarters[3]);
    return __builtin_shufflevector(a, b, 0, 2, 8, 10, 4, 6, 12, 14) +
           __builtin_shufflevector(a, b, 1, 3, 9, 11, 5, 7, 13, 15);
}

// A bit for each lane in which a > b, or a >= b.
inline uint32_t bits_above(Floats a, Floats b) {
#ifdef __AVX512F__
    return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GT_OQ);
#else
    uint32_t found = 0;
    for (int i = 0; i < LANES; ++i) found |= (uint32_t)(a[i] > b[i]) << i;
    return found;
#endif
}
inline uint32_t bits_at_least(Floats a, Floats b) {
#ifdef __AVX512F__
    return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GE_OQ);
#else
    uint32_t found = 0;
    for (int i = 0; i < LANES; ++i) found |= (uint32_t)(a[i] >= b[i]) << i;
    return found;
#endif
}
inline Floats all(float value) { return (Floats){} + value; }

// The first n_left values, or as many as there are lanes, then -infinity.
inline Floats lanes(const float* from, int64_t n_left) {
    if (n_left >= LANES) return load<Floats>(from);
    Floats padded = all(-std::numeric_limits<float>::infinity());
    std::memcpy(&padded, from, n_left * sizeof(float));
    return padded;
}

// Calls use(i) for each i < n that has a bit in bits_from(first), in order; first = 0, LANES, ...
template <class Bits, class Use>
inline void each_lane(int64_t n, Bits bits_from, Use use) {
    for (int64_t first = 0; first < n; first += LANES)
        for (uint32_t bits = bits_from(first); bits; bits &= bits - 1)
            use(first + __builtin_ctz(bits));
}

// Reads memory in order, once, before a tile reads it line by line: a processor foresees one stream
// better than eight.
template <class Element>
inline void touch(const Element* from, int64_t n) {
    uint32_t seen = 0;
    for (const char *at = (const char*)from, *end = (const char*)(from + n); at < end; at += 64)
        seen += *(const uint8_t*)at;
    asm volatile("" ::"r"(seen));
}

template <class Element>
constexpr int64_t CACHE_LINE = 64 / sizeof(Element);

// Has a line of memory fetched into the second cache: the first is full of what is read now.
template <class Element>
inline __attribute__((always_inline)) void fetch(const Element& at) {
#ifdef __x86_64__
    asm volatile("prefetcht1 %0" ::"m"(at));  // GCC drops the builtin from some loops
#else
    __builtin_prefetch(&at, 0, 2);
#endif
}

// out[c * ROWS + r] is the sum of sums[c][r].
template <int ROWS, int COLUMNS>
inline void add_up(const Floats (&sums)[COLUMNS][ROWS], float* out) {
#pragma GCC unroll 8
    for (int c = 0; c < COLUMNS; ++c) {
        if constexpr (ROWS == 8) {
            const Octet found = sums_of_eight(sums[c]);
            std::memcpy(out + c * ROWS, &found, sizeof found);
        } else {
#pragma GCC unroll 8
            for (int r = 0; r < ROWS; ++r) out[c * ROWS + r] = sum(sums[c][r]);
        }
    }
}

// out[c * ROWS + r] = rows[r] . columns[c], over n elements; fetches the rows that come next.
template <int ROWS, int COLUMNS, class Element>
inline void dots(
    const Element* const* rows, const float* const* columns, int64_t n, float* out,
    const Element* const* next = nullptr) {
    Floats sums[COLUMNS][ROWS] = {};
    auto add = [&](int64_t j, auto... width) __attribute__((always_inline)) {
        Floats x[COLUMNS];
#pragma GCC unroll 8
        for (int c = 0; c < COLUMNS; ++c) x[c] = floats(columns[c] + j, width...);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r) {
            const Floats a = floats(rows[r] + j, width...);
#pragma GCC unroll 8
            for (int c = 0; c < COLUMNS; ++c) sums[c][r] += a * x[c];
        }
    };
    int64_t j = 0;
    for (; j + CACHE_LINE<Element> <= n; j += CACHE_LINE<Element>) {
#pragma GCC unroll 8
        for (int r = 0; r < ROWS && next; ++r) fetch(next[r][j]);
#pragma GCC unroll 4
        for (int64_t i = 0; i < CACHE_LINE<Element>; i += LANES) add(j + i);
    }
    for (; j + LANES <= n; j += LANES) add(j);
    if (j < n) add(j, n - j);
    add_up<ROWS, COLUMNS>(sums, out);
}

// Adds the products of neighbouring pairs of bfloat16 to sixteen float32.
inline Floats add_pairs(Floats total, const bfloat16* a, const bfloat16* b) {
#ifdef __AVX512BF16__
    return (Floats)_mm512_dpbf16_ps((__m512)total, load<__m512bh>(a), load<__m512bh>(b));
#else
    const Words u = load<Words>(a), v = load<Words>(b);
    const Words high = (Words){} + 0xffff0000u;
    total += (Floats)(u << 16) * (Floats)(v << 16);
    return total + (Floats)(u & high) * (Floats)(v & high);
#endif
}

// As `dots`, of bfloat16 with bfloat16; n is a multiple of 2 * LANES.
template <int ROWS, int COLUMNS>
inline void dots_of_pairs(
    const bfloat16* const* rows, const bfloat16* const* columns, int64_t n, float* out) {
    Floats sums[COLUMNS][ROWS] = {};
    for (int64_t j = 0; j < n; j += 2 * LANES) {
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
            for (int c = 0; c < COLUMNS; ++c)
                sums[c][r] = add_pairs(sums[c][r], rows[r] + j, columns[c] + j);
    }
    add_up<ROWS, COLUMNS>(sums, out);
}

// Elements of x as whole numbers in two bytes: x[j] is about 256 * high[j] + low[j] - 32768 steps.
constexpr float LARGEST_STEP = 32767.0f;

#ifdef __AVX512VNNI__
constexpr bool HAS_BYTE_DOTS = true;
constexpr int64_t BYTE_LANES = 64;
constexpr int64_t MOST_BYTES = 16384;  // above, a lane of the high bytes' sums is no exact float

inline void write_low_bytes(Integers from, uint8_t* to) {
    _mm_storeu_si128((__m128i*)to, _mm512_cvtepi32_epi8((__m512i)from));
}

// Returns codes . steps, exact but for the last sum. One line after the other is how memory is read
// fastest, and there is little to compute.
//
// high and low are padded to a multiple of BYTE_LANES; n is a multiple of half of that.
inline float dot_of_codes(
    const int8_t* line, const uint8_t* high, const uint8_t* low, int64_t n) {
    __m512i highs = {}, lows = {}, sums = {};
    const __m512i one = _mm512_set1_epi8(1);
    for (int64_t j = 0; j < n; j += BYTE_LANES) {
        const __mmask64 mask = n - j < BYTE_LANES ? 0xffffffffull : ~0ull;
        const __m512i codes = _mm512_maskz_loadu_epi8(mask, line + j);
        highs = _mm512_dpbusd_epi32(highs, load<__m512i>(high + j), codes);
        lows = _mm512_dpbusd_epi32(lows, load<__m512i>(low + j), codes);
        sums = _mm512_dpbusd_epi32(sums, one, codes);
    }
    const Integers upper = (Integers)highs - 128 * (Integers)sums;
    return sum(256.0f * __builtin_convertvector(upper, Floats) +
               __builtin_convertvector((Integers)lows, Floats));
}
#else
constexpr bool HAS_BYTE_DOTS = false;
constexpr int64_t BYTE_LANES = 64, MOST_BYTES = 0;
inline void write_low_bytes(Integers, uint8_t*) {}
inline float dot_of_codes(const int8_t*, const uint8_t*, const uint8_t*, int64_t) { return 0; }
#endif

// To bfloat16, to nearest even, and back.
inline Floats rounded(Floats values) {
    const Words bits = (Words)values;
    const Words nearest = (bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u;
    const Words is_nan = (Words)((bits & 0x7fffffffu) > 0x7f800000u);
    return (Floats)((is_nan & (bits | 0x400000u)) | (~is_nan & nearest));
}

inline void store(Floats values, float* to, int64_t n) { std::memcpy(to, &values, n * sizeof *to); }
inline void store(Floats rounded_values, bfloat16* to, int64_t n) {
    const Shorts bits = __builtin_convertvector((Words)rounded_values >> 16, Shorts);
    std::memcpy(to, &bits, n * sizeof *to);
}

// Calls use(j, width) for each LANES elements of n; the last width may be smaller.
template <class Use>
inline void each_vector(int64_t n, Use use) {
    int64_t j = 0;
    for (; j + LANES <= n; j += LANES) use(j, LANES);
    if (j < n) use(j, n - j);
}

// The first n elements, then zeros.
template <class Element>
inline Floats some_floats(const Element* from, int64_t n) {
    return n == LANES ? floats(from) : floats(from, n);
}

}  // namespace lag
