// The k largest arrow scores of each token, exactly, read from compact arrow vectors.
//
// A compact score differs from the exact one by at most a known bound. Rows that cannot be among
// the k largest are dropped, rows that must be are kept, and the few in between are scored again
// from the arrow vectors themselves. What is chosen is what float32 chooses, ties included.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "structs.h"
#include "tokens.h"

namespace lag {

constexpr float INF = std::numeric_limits<float>::infinity();

struct Candidate {
    int32_t row;
    float score;  // the exact arrow score; infinite where it was not needed
};

// A bound of |compact score - float32 score|: own[i] * scale + common; own may be null.
struct Bound {
    const float* own;
    float scale, common;
    float of(int64_t row) const { return (own ? own[row] * scale : 0.0f) + common; }
};

// Returns the k-th largest of the values below(i); -infinity where there are fewer.
template <class Value>
float kth_largest(int64_t n, int64_t k, std::vector<float>& kept, Value value) {
    if (n < k) return -INF;
    const size_t limit = 4 * k + 64;
    float least = -INF;
    kept.clear();
    auto cut = [&] {
        std::nth_element(kept.begin(), kept.begin() + k - 1, kept.end(), std::greater<float>());
        least = kept[k - 1];
        kept.resize(k);
    };
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        float block[LANES];
        int any = 0;
        for (int64_t j = 0; j < LANES; ++j) block[j] = value(i + j);
        for (int64_t j = 0; j < LANES; ++j) any |= block[j] > least;
        if (!any) continue;
        for (int64_t j = 0; j < LANES; ++j)
            if (block[j] > least) kept.push_back(block[j]);
        if (kept.size() > limit) cut();
    }
    for (; i < n; ++i)
        if (value(i) > least) kept.push_back(value(i));
    if ((int64_t)kept.size() < k) return -INF;
    cut();
    return least;
}

// Fills scores with the exact arrow scores of these rows.
template <class Element>
void exact_scores(
    const Stack& stack, const float* x, const int32_t* rows, int64_t n, float* scores) {
    const Element* arrow = (const Element*)stack.arrow;
    const Element* lines[TILE_ROWS];
    float found[TILE_ROWS];
    for (int64_t i = 0; i < n; i += TILE_ROWS) {
        for (int64_t r = 0; r < TILE_ROWS; ++r)
            lines[r] = arrow + rows[std::min(i + r, n - 1)] * stack.d_in;
        dots<TILE_ROWS, 1>(lines, &x, stack.d_in, found);
        for (int64_t r = 0; r < TILE_ROWS && i + r < n; ++r) scores[i + r] = std::fabs(found[r]);
    }
}

// One thread's room for choosing.
struct Scratch {
    std::vector<float> kept, scores;
    std::vector<int32_t> rows;
    std::vector<Candidate> chosen;
};

// Keeps the k largest exact scores, in order of rows; of equal ones the lower row.
inline void keep_largest(
    const std::vector<int32_t>& rows, const std::vector<float>& scores, int64_t k, float tolerance,
    Scratch& scratch) {
    if (k <= 0) return;
    const int64_t n = rows.size();
    const float last =
        kth_largest(n, k, scratch.kept, [&](int64_t i) { return scores[i]; });
    auto above = [&](int64_t i) { return !(scores[i] - tolerance <= last); };
    int64_t equal = k;
    for (int64_t i = 0; i < n; ++i) equal -= above(i);
    for (int64_t i = 0; i < n; ++i)
        if (above(i) || (scores[i] + tolerance >= last && equal-- > 0))
            scratch.chosen.push_back({rows[i], scores[i]});
}

// Chooses a token's k best rows into scratch.chosen, in order of rows.
//
// compact: (n,) scores, -infinity for what may not be chosen. exact: whether the scores are wanted.
template <class Element>
void choose(
    const Stack& stack, const float* x, const float* compact, const Bound& bound, int64_t k,
    float tolerance, bool exact, Scratch& scratch) {
    const int64_t n = stack.n;
    auto& rows = scratch.rows;
    auto& scores = scratch.scores;
    rows.clear();
    scratch.chosen.clear();
    const float least = kth_largest(
        n, k, scratch.kept, [&](int64_t i) { return compact[i] - bound.of(i); });
    const float cutoff = std::max(least - tolerance, -std::numeric_limits<float>::max());
    for (int64_t i = 0; i < n; i += LANES) {
        const int64_t end = std::min(i + LANES, n);
        int any = 0;
        for (int64_t j = i; j < end; ++j) any |= compact[j] + bound.of(j) >= cutoff;
        if (!any) continue;
        for (int64_t j = i; j < end; ++j)
            if (compact[j] + bound.of(j) >= cutoff) rows.push_back((int32_t)j);
    }
    if (!exact) {
        // With fewer than k others that might come so high, a row is chosen whatever they are.
        const float sure = 2 * tolerance + kth_largest(rows.size(), k + 1, scratch.kept,
            [&](int64_t i) { return compact[rows[i]] + bound.of(rows[i]); });
        auto open = std::stable_partition(rows.begin(), rows.end(), [&](int32_t row) {
            return compact[row] - bound.of(row) > sure; });
        for (auto row = rows.begin(); row != open; ++row) scratch.chosen.push_back({*row, INF});
        rows.erase(rows.begin(), open);
    }
    scores.resize(rows.size());
    exact_scores<Element>(stack, x, rows.data(), rows.size(), scores.data());
    const int64_t n_sure = scratch.chosen.size();
    keep_largest(rows, scores, k - n_sure, tolerance, scratch);
}

}  // namespace lag
