// The inputs of a call in the forms that scans read, with what rounding can hide in each.
#pragma once

#include <cfloat>
#include <algorithm>
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
    std::vector<uint8_t> high, low;  // (n, byte_stride), zero-padded; empty where not asked for
    std::vector<float> steps;      // what one step of them is worth
    std::vector<float> lost;       // ||x - halves||, or ||x - bytes||
    int64_t byte_stride;

    const float* line(int64_t t) const { return x + t * d_in; }
    // Arrow scores that differ by less count as equal.
    float tolerance(int64_t t) const { return lengths[t] * (ROUNDING_UNITS * FLT_EPSILON); }
};

template <class Element>
inline float length(const Element* values, int64_t n) {
    Floats squares = {};
    each_vector(n, [&](int64_t j, int64_t width) {
        const Floats v = some_floats(values + j, width);
        squares += v * v;
    });
    return std::sqrt(sum(squares));
}

// The largest absolute value; at least 0.
template <class Element>
inline float largest_of(const Element* values, int64_t n) {
    Floats most = {};
    each_vector(n, [&](int64_t j, int64_t width) {
        const Floats v = some_floats(values + j, width);
        most = v > most ? v : -v > most ? -v : most;
    });
    float largest = 0;
    for (int i = 0; i < LANES; ++i) largest = std::max(largest, most[i]);
    return largest;
}

// Writes a line in bfloat16, and the length of what was rounded away.
template <class Element>
inline void round_line(const Element* x, bfloat16* to, float& lost, int64_t n) {
    Floats squares = {};
    each_vector(n, [&](int64_t j, int64_t width) {
        const Floats v = some_floats(x + j, width), near = rounded(v), gone = v - near;
        store(near, to + j, width);
        squares += gone * gone;
    });
    lost = std::sqrt(sum(squares)) * 1.0001f;
}

// Writes a line as bytes; returns what one step is worth, 0 where the line cannot be written so.
inline float write_bytes(const float* x, uint8_t* high, uint8_t* low, float& lost, int64_t n) {
    Floats squares = {};
    const float largest = largest_of(x, n);
    const float step = largest > 0 ? largest / LARGEST_STEP : 1.0f, inverse = 1.0f / step;
    each_vector(n, [&](int64_t j, int64_t width) {
        const Floats v = some_floats(x + j, width);
        const Integers steps = __builtin_convertvector(v * inverse + 32768.5f, Integers);
        const Floats gone = v - step * __builtin_convertvector(steps - 32768, Floats);
        squares += gone * gone;
        write_low_bytes(steps >> 8, high + j);
        write_low_bytes(steps, low + j);
    });
    const float square = sum(squares);
    if (!(square < INFINITY)) return 0;  // not finite, or out of float32's range on the way
    lost = std::sqrt(square) * 1.001f + largest * FLT_EPSILON * std::sqrt((float)n);
    return step;
}

// Returns the tokens of a call; their bfloat16 lines, and bytes, only where asked for.
inline Tokens read_tokens(
    const Call& call, int64_t d_in, int64_t half_stride, bool wants_bytes) {
    Tokens tokens{.n = call.n_tokens, .d_in = d_in, .half_stride = half_stride,
                  .x = (const float*)call.x};
    const int64_t n = call.n_tokens;
    if (call.x_element != FLOAT32) {
        tokens.widened_x.resize(n * d_in);
        tokens.x = tokens.widened_x.data();
    }
    tokens.lengths.resize(n);
    tokens.lost.assign(n, 0.0f);
    tokens.halves.assign(n * half_stride, bfloat16{0});
    if (wants_bytes && HAS_BYTE_DOTS && d_in <= MOST_BYTES) {
        tokens.byte_stride = (d_in + BYTE_LANES - 1) / BYTE_LANES * BYTE_LANES;
        tokens.high.assign(n * tokens.byte_stride, 0);
        tokens.low.assign(n * tokens.byte_stride, 0);
        tokens.steps.assign(n, 0.0f);
    }
#pragma omp parallel for num_threads(call.n_threads) if (n > 1 && call.n_threads > 1)
    for (int64_t t = 0; t < n; ++t) {
        if (call.x_element != FLOAT32)
            with_type(call.x_element, [&](auto zero) {
                const auto* from = (const decltype(zero)*)call.x + t * d_in;
                each_vector(d_in, [&](int64_t j, int64_t width) {
                    store(some_floats(from + j, width), &tokens.widened_x[t * d_in + j], width);
                });
            });
        tokens.lengths[t] = length(tokens.line(t), d_in);
        if (half_stride)
            round_line(tokens.line(t), &tokens.halves[t * half_stride], tokens.lost[t], d_in);
        if (!tokens.steps.empty()) {
            const int64_t at = t * tokens.byte_stride;
            tokens.steps[t] = write_bytes(
                tokens.line(t), &tokens.high[at], &tokens.low[at], tokens.lost[t], d_in);
        }
    }
    return tokens;
}

}  // namespace lag
