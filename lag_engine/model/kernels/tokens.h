// The inputs of a call in the forms that scans read, with what rounding can hide in each.
#pragma once

#include <cfloat>
#include <cmath>
#include <vector>

#include "structs.h"

namespace lag {

constexpr float ROUNDING_UNITS = 4.0f;  // as `routing/scores.py`

struct Tokens {
    int64_t n, d_in, half_stride;
    const float* x;             // (n, d_in)
    std::vector<float> widened_x;
    std::vector<bfloat16> halves;  // (n, half_stride), zero-padded; empty where not asked for
    std::vector<float> lengths;    // ||x||
    std::vector<float> lost;       // ||x - halves||

    const float* line(int64_t t) const { return x + t * d_in; }
    // Arrow scores that differ by less count as equal.
    float tolerance(int64_t t) const { return lengths[t] * (ROUNDING_UNITS * FLT_EPSILON); }
};

inline float length(const float* values, int64_t n) {
    Floats squares = {};
    int64_t j = 0;
    for (; j + LANES <= n; j += LANES) {
        const Floats v = floats(values + j);
        squares += v * v;
    }
    if (j < n) {
        const Floats v = floats(values + j, n - j);
        squares += v * v;
    }
    return std::sqrt(sum(squares));
}

inline void round_line(const float* x, bfloat16* to, float& lost, int64_t n) {
    Floats squares = {};
    for (int64_t j = 0; j < n; j += LANES) {
        const int64_t width = n - j < LANES ? n - j : LANES;
        Floats gone = {};
        for (int64_t i = 0; i < width; ++i) {
            to[j + i] = rounded(x[j + i]);
            gone[i] = x[j + i] - widened(to[j + i]);
        }
        squares += gone * gone;
    }
    lost = std::sqrt(sum(squares)) * 1.0001f;
}

// Returns the tokens of a call; their bfloat16 lines only where the stride is not 0.
inline Tokens read_tokens(const Call& call, int64_t d_in, int64_t half_stride) {
    Tokens tokens{call.n_tokens, d_in, half_stride, (const float*)call.x, {}, {}, {}, {}};
    const int64_t n = call.n_tokens;
    if (call.x_element == BFLOAT16) {
        tokens.widened_x.resize(n * d_in);
        const bfloat16* from = (const bfloat16*)call.x;
        for (int64_t i = 0; i < n * d_in; ++i) tokens.widened_x[i] = widened(from[i]);
        tokens.x = tokens.widened_x.data();
    }
    tokens.lengths.resize(n);
    tokens.lost.assign(n, 0.0f);
    tokens.halves.assign(n * half_stride, bfloat16{0});
#pragma omp parallel for num_threads(call.n_threads) if (n > 1 && call.n_threads > 1)
    for (int64_t t = 0; t < n; ++t) {
        tokens.lengths[t] = length(tokens.line(t), d_in);
        if (half_stride)
            round_line(tokens.line(t), &tokens.halves[t * half_stride], tokens.lost[t], d_in);
    }
    return tokens;
}

}  // namespace lag
