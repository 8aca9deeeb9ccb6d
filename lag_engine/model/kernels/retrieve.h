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
};

constexpr int64_t GROUPS = 4 * LANES;

// Returns a value that at least k of the values exceed, found fast; -infinity where that is not.
inline float start_below(const float* values, int64_t n, int64_t k) {
    if (k > GROUPS || n < 2 * GROUPS) return -INF;
    Floats largest[4];  // of each of GROUPS disjoint groups
    for (int g = 0; g < 4; ++g) largest[g] = load<Floats>(values + g * LANES);
    for (int64_t i = GROUPS; i + GROUPS <= n; i += GROUPS)
        for (int g = 0; g < 4; ++g) {
            const Floats more = load<Floats>(values + i + g * LANES);
            largest[g] = more > largest[g] ? more : largest[g];
        }
    float found[GROUPS];
    std::memcpy(found, largest, sizeof found);
    std::nth_element(found, found + k - 1, found + GROUPS, std::greater<float>());
    return std::nextafter(found[k - 1], -INF);
}

// Returns the k-th largest of n values; -infinity where there are fewer.
inline float kth_largest(const float* values, int64_t n, int64_t k, std::vector<float>& kept) {
    const size_t limit = 4 * k + 64;
    float least = start_below(values, n, k);
    kept.clear();
    auto cut = [&] {
        std::nth_element(kept.begin(), kept.begin() + k - 1, kept.end(), std::greater<float>());
        least = kept[k - 1];
        kept.resize(k);
    };
    auto keep = [&](int64_t from, int64_t to) {
        for (int64_t i = from; i < to; ++i)
            if (values[i] > least) kept.push_back(values[i]);
        if (kept.size() > limit) cut();
    };
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        if (any(load<Floats>(values + i) > least)) keep(i, i + LANES);
    keep(i, n);
    if ((int64_t)kept.size() < k) return -INF;
    cut();
    return least;
}

// Fills scores with the exact arrow scores of these rows.
template <class Element>
void exact_scores(
    const Stack& stack, const float* x, const int32_t* rows, int64_t n, float* scores) {
    const Element* arrow = (const Element*)stack.arrow;
    std::vector<const Element*> lines(n + 2 * TILE_ROWS, arrow);
    for (int64_t i = 0; i < n; ++i) lines[i] = arrow + rows[i] * stack.d_in;
    float found[TILE_ROWS];
    for (int64_t i = 0; i < n; i += TILE_ROWS) {
        dots<TILE_ROWS, 1>(&lines[i], &x, stack.d_in, found, &lines[i + TILE_ROWS]);
        for (int64_t r = 0; r < TILE_ROWS && i + r < n; ++r) scores[i + r] = std::fabs(found[r]);
    }
}

// One thread's room for choosing.
struct Scratch {
    std::vector<float> kept, scores, lower;
    std::vector<int32_t> rows;
    std::vector<Candidate> chosen;
};

// Keeps the k largest exact scores, in order of rows; of equal ones the lower row.
inline void keep_largest(
    const std::vector<int32_t>& rows, const std::vector<float>& scores, int64_t k, float tolerance,
    Scratch& scratch) {
    if (k <= 0) return;
    const int64_t n = rows.size();
    const float last = kth_largest(scores.data(), n, k, scratch.kept);
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
    auto& lower = scratch.lower;  // what the score is at least
    lower.assign(compact, compact + n);
    for (int64_t i = 0; i < n; ++i) lower[i] -= bound.common;
    if (bound.own)
        for (int64_t i = 0; i < n; ++i) lower[i] -= bound.own[i] * bound.scale;
    auto upper = [&](int64_t i) { return 2 * compact[i] - lower[i]; };
    const float least = kth_largest(lower.data(), n, k, scratch.kept);
    const float cutoff = std::max(least - tolerance, -std::numeric_limits<float>::max());
    for (int64_t i = 0; i < n; i += LANES) {
        const int64_t end = std::min(i + LANES, n);
        if (end - i == LANES &&
            !any(2 * load<Floats>(compact + i) - load<Floats>(&lower[i]) >= cutoff))
            continue;
        for (int64_t j = i; j < end; ++j)
            if (upper(j) >= cutoff) rows.push_back((int32_t)j);
    }
    if (!exact) {
        // With fewer than k others that might come so high, a row is chosen whatever they are.
        scores.clear();
        for (int32_t row : rows) scores.push_back(upper(row));
        const float sure =
            2 * tolerance + kth_largest(scores.data(), scores.size(), k + 1, scratch.kept);
        auto open = std::stable_partition(
            rows.begin(), rows.end(), [&](int32_t row) { return lower[row] > sure; });
        for (auto row = rows.begin(); row != open; ++row) scratch.chosen.push_back({*row, INF});
        rows.erase(rows.begin(), open);
    }
    scores.resize(rows.size());
    exact_scores<Element>(stack, x, rows.data(), rows.size(), scores.data());
    const int64_t n_sure = scratch.chosen.size();
    keep_largest(rows, scores, k - n_sure, tolerance, scratch);
}

}  // namespace lag
