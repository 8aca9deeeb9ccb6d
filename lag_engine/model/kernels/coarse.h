// Arrow scores from vectors in four bits, for those who permit that an adapter may be missed.
//
// What rounding takes from a vector has little to do with an input: their product is about
// |lost| |x| / sqrt(d_in) large. Rows that would be among the k largest if scores were off by less
// than WINDOW times that are scored again, exactly; no bound holds for the others.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "retrieve.h"
#include "structs.h"
#include "tokens.h"

namespace lag {

constexpr float WINDOW = 2.0f;
constexpr float FEWEST_STEPS = 2.0f;
constexpr int64_t NIBBLE_LINE = 64;  // bytes: the low halves are 64 elements, the high ones the next
constexpr int64_t COARSE_ROWS = 64;  // that a thread scores at one time

// An input as whole numbers: x[j] is about step * whole[j], in one byte, or in two where one would
// leave too little of the elements beside a few large ones.
struct Whole {
    std::vector<uint8_t> high, low;  // signed; zero-padded; low only where there are two
    float step;   // 0 where the input cannot be written so
    float total;  // of the whole numbers
    float lost;   // the length of what was rounded away
};

inline float mean_size(const float* x, int64_t n) {
    Floats sums = {};
    each_vector(n, [&](int64_t j, int64_t width) {
        const Floats v = some_floats(x + j, width);
        sums += v > 0 ? v : -v;
    });
    return sum(sums) / n;
}

inline Whole whole_of(const float* x, int64_t n) {
    const float largest = largest_of(x, n);
    const bool is_fine = largest > 127 / FEWEST_STEPS * mean_size(x, n);
    const int64_t padded = (n + 2 * NIBBLE_LINE - 1) / (2 * NIBBLE_LINE) * (2 * NIBBLE_LINE);
    Whole whole{std::vector<uint8_t>(padded), std::vector<uint8_t>(is_fine ? padded : 0)};
    whole.step = largest > 0 ? largest / (is_fine ? 32639 : 127) : 1.0f;
    const float inverse = 1 / whole.step;
    Floats squares = {}, totals = {};
    each_vector(n, [&](int64_t j, int64_t width) {
        const Floats v = some_floats(x + j, width);
        const Integers steps = __builtin_convertvector(v * inverse + 32768.5f, Integers) - 32768;
        const Floats near = __builtin_convertvector(steps, Floats), gone = v - whole.step * near;
        squares += gone * gone;
        totals += near;
        const Integers upper = is_fine ? (steps + 128) >> 8 : steps;
        write_low_bytes(upper, &whole.high[j]);
        if (is_fine) write_low_bytes(steps, &whole.low[j]);
    });
    whole.total = sum(totals);
    whole.lost = std::sqrt(sum(squares));
    if (!(whole.lost < INFINITY && inverse < INFINITY)) whole.step = 0;
    return whole;
}

// Returns the sum of nibbles times whole numbers; n bytes, a multiple of NIBBLE_LINE.
template <bool IS_FINE>
inline float dot_of_nibbles(const uint8_t* line, const uint8_t* high, const uint8_t* low, int64_t n) {
#ifdef __AVX512VNNI__
    __m512i highs = {}, lows = {};
    const __m512i mask = _mm512_set1_epi8(15);
    for (int64_t j = 0; j < n; j += NIBBLE_LINE) {
        const __m512i both = load<__m512i>(line + j), first = _mm512_and_si512(both, mask);
        const __m512i next = _mm512_and_si512(_mm512_srli_epi16(both, 4), mask);
        highs = _mm512_dpbusd_epi32(highs, first, load<__m512i>(high + 2 * j));
        highs = _mm512_dpbusd_epi32(highs, next, load<__m512i>(high + 2 * j + NIBBLE_LINE));
        if (!IS_FINE) continue;
        lows = _mm512_dpbusd_epi32(lows, first, load<__m512i>(low + 2 * j));
        lows = _mm512_dpbusd_epi32(lows, next, load<__m512i>(low + 2 * j + NIBBLE_LINE));
    }
    const Floats found = __builtin_convertvector((Integers)highs, Floats);
    return sum(IS_FINE ? 256 * found + __builtin_convertvector((Integers)lows, Floats) : found);
#else
    return 0;
#endif
}

// Returns the tokens in whole numbers; nothing where one of them cannot be written so.
inline std::vector<Whole> whole_tokens(const Tokens& tokens) {
    std::vector<Whole> found;
    for (int64_t t = 0; t < tokens.n; ++t) {
        found.push_back(whole_of(tokens.line(t), tokens.d_in));
        if (found.back().step == 0) return {};
    }
    return found;
}

// Fills out (tokens, stack.n) with coarse scores.
inline void scan_nibbles(
    const Stack& stack, const std::vector<Whole>& tokens, int n_threads, float* out) {
    const int64_t n_bytes = stack.nibble_stride;
#pragma omp parallel for num_threads(n_threads) schedule(static, COARSE_ROWS) if (n_threads > 1)
    for (int64_t row = 0; row < stack.n; ++row)
        for (size_t t = 0; t < tokens.size(); ++t) {
            const Whole& x = tokens[t];
            const uint8_t *line = stack.nibbles + row * n_bytes, *high = x.high.data();
            const float found = x.low.empty()
                                    ? dot_of_nibbles<false>(line, high, nullptr, n_bytes)
                                    : dot_of_nibbles<true>(line, high, x.low.data(), n_bytes);
            out[t * stack.n + row] =
                std::fabs(found - NIBBLE_ZERO * x.total) * (stack.nibble_scales[row] * x.step);
        }
}

// Returns how far a token's coarse scores are taken to be from those of float32.
inline Bound coarse_bound(const Stack& stack, const Tokens& tokens, int64_t t, const Whole& whole) {
    const float share = WINDOW / std::sqrt((float)tokens.d_in);
    const float length = std::min(tokens.lengths[t], FLT_MAX);
    return {stack.nibble_errors, length * share, whole.lost * stack.reach * share};
}

}  // namespace lag
