// Compact arrow scores of some tokens for all rows.
#pragma once

#include <algorithm>
#include <cmath>

#include "retrieve.h"
#include "structs.h"
#include "tokens.h"

namespace lag {

// Lines that stay in a cache while all tokens pass over them; fewer where threads share few.
constexpr int64_t MOST_PANEL_ROWS = 64, LEAST_PANEL_ROWS = 2 * TILE_ROWS;

enum Precision { EXACT, CODES, HALVES };

// Which arrow vectors are read: pairs of bfloat16 pay where many tokens share them.
inline Precision precision_of(const Stack& stack, int64_t n_tokens, int64_t many) {
    if (stack.halves && (n_tokens >= many || !stack.codes)) return HALVES;
    return stack.codes ? CODES : EXACT;
}

// Lines of a matrix: one after the other, or wherever they are.
template <class Element>
struct Lines {
    const Element* start;
    int64_t stride;
    const int64_t* addresses;  // or null

    const Element* operator[](int64_t row) const {
        return addresses ? (const Element*)addresses[row] : start + row * stride;
    }
};

// Writes one tile of scores: of ROWS rows and COLUMNS tokens.
template <int ROWS, int COLUMNS, class Element>
inline void score_tile(
    const Element* const* rows, const float* const* x, int64_t width, const float* scales,
    float* const* out) {
    float found[ROWS * COLUMNS];
    dots<ROWS, COLUMNS>(rows, x, width, found);
    for (int c = 0; c < COLUMNS; ++c)
        for (int r = 0; r < ROWS; ++r)
            out[c][r] = std::fabs(found[c * ROWS + r]) * (scales ? scales[r] : 1.0f);
}

template <int ROWS, int COLUMNS>
inline void score_tile(
    const bfloat16* const* rows, const bfloat16* const* x, int64_t width, const float*,
    float* const* out) {
    float found[ROWS * COLUMNS];
    dots_of_pairs<ROWS, COLUMNS>(rows, x, width, found);
    for (int c = 0; c < COLUMNS; ++c)
        for (int r = 0; r < ROWS; ++r) out[c][r] = std::fabs(found[c * ROWS + r]);
}

template <int ROWS, class Element, class Input>
void score_rows(
    const Lines<Element>& lines, int64_t row, const float* scales, const Input* x,
    int64_t x_stride, int64_t n_tokens, int64_t width, float* out, int64_t out_stride) {
    int64_t t = 0;
    const Element* rows[ROWS];
    for (int r = 0; r < ROWS; ++r) {
        rows[r] = lines[row + r];
        touch(rows[r], width);
    }
    if (scales) scales += row;
    out += row;
    const Input* columns[TILE_COLUMNS];
    float* places[TILE_COLUMNS];
    auto point = [&](int n) {
        for (int c = 0; c < n; ++c) {
            columns[c] = x + (t + c) * x_stride;
            places[c] = out + (t + c) * out_stride;
        }
    };
    for (; t + TILE_COLUMNS <= n_tokens; t += TILE_COLUMNS) {
        point(TILE_COLUMNS);
        score_tile<ROWS, TILE_COLUMNS>(rows, columns, width, scales, places);
    }
    point((int)(n_tokens - t));
    if (n_tokens - t == 2) score_tile<ROWS, 2>(rows, columns, width, scales, places);
    if (n_tokens - t == 1) score_tile<ROWS, 1>(rows, columns, width, scales, places);
}

// Fills out (n_tokens, stride) with the scores of rows [from, to).
template <class Element, class Input>
void score_panel(
    const Lines<Element>& lines, const float* scales, const Input* x, int64_t x_stride,
    int64_t n_tokens, int64_t width, int64_t from, int64_t to, float* out, int64_t out_stride) {
    int64_t row = from;
    for (; row + TILE_ROWS <= to; row += TILE_ROWS)
        score_rows<TILE_ROWS>(lines, row, scales, x, x_stride, n_tokens, width, out, out_stride);
    for (; row < to; ++row)
        score_rows<1>(lines, row, scales, x, x_stride, n_tokens, width, out, out_stride);
}

// As `score_panel`, of int8 codes with the tokens' bytes. False where a token has none.
inline bool score_codes(
    const Stack& stack, const Tokens& tokens, int64_t first, int64_t n, int64_t from, int64_t to,
    float* out) {
    for (int64_t t = first; t < first + n; ++t)
        if (tokens.steps.empty() || tokens.steps[t] == 0) return false;
    for (int64_t row = from; row < to; ++row)
        for (int64_t i = 0; i < n; ++i) {
            const int64_t at = (first + i) * tokens.byte_stride;
            const float found = dot_of_codes(stack.codes + row * stack.code_stride,
                                             &tokens.high[at], &tokens.low[at], stack.code_stride);
            out[i * stack.n + row] =
                std::fabs(found) * (stack.scales[row] * tokens.steps[first + i]);
        }
    return true;
}

// Fills out (n, stack.n) with the compact scores of tokens [first, first + n).
inline void scan(
    const Stack& stack, const Tokens& tokens, int64_t first, int64_t n, Precision precision,
    int n_threads, float* out) {
    const int64_t panel_rows =
        std::clamp(stack.n / n_threads / LEAST_PANEL_ROWS * LEAST_PANEL_ROWS, LEAST_PANEL_ROWS,
                   MOST_PANEL_ROWS);
    const int64_t n_panels = (stack.n + panel_rows - 1) / panel_rows;
    const float* x = tokens.line(first);
#pragma omp parallel for num_threads(n_threads) schedule(static) if (n_threads > 1)
    for (int64_t panel = 0; panel < n_panels; ++panel) {
        const int64_t from = panel * panel_rows, to = std::min(from + panel_rows, stack.n);
        auto score = [&](auto lines, const float* scales) {
            score_panel(lines, scales, x, tokens.d_in, n, tokens.d_in, from, to, out, stack.n);
        };
        if (precision == HALVES)
            score_panel(Lines<bfloat16>{nullptr, 0, stack.halves}, nullptr,
                        &tokens.halves[first * tokens.half_stride], tokens.half_stride, n,
                        stack.half_stride, from, to, out, stack.n);
        else if (precision == CODES && score_codes(stack, tokens, first, n, from, to, out))
            continue;
        else if (precision == CODES)
            score(Lines<int8_t>{stack.codes, stack.code_stride, nullptr}, stack.scales);
        else
            with_type(stack.arrow_element, [&](auto zero) {
                score(Lines<decltype(zero)>{nullptr, 0, stack.arrow}, nullptr);
            });
    }
}

// Returns how far a token's compact scores can be from those of float32.
inline Bound bound_of(const Stack& stack, const Tokens& tokens, int64_t t, Precision precision) {
    const float length = std::min(tokens.lengths[t], FLT_MAX);  // times an error of 0 it is 0
    const float sums = length * stack.reach * (tokens.d_in / 16 + 64) * FLT_EPSILON;
    if (precision == EXACT) return {nullptr, 0.0f, 0.0f};
    if (precision == CODES)  // codes are shorter than twice the vectors
        return {stack.code_errors, length, sums + tokens.lost[t] * stack.reach * 2};
    return {stack.half_errors, length, sums + tokens.lost[t] * stack.reach + 1e-30f};
}

}  // namespace lag
