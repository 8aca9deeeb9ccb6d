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

#include "announce.h"
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

// Returns the k-th largest of n values, k <= n <= GROUPS, by counting: no branch to mispredict.
inline float kth_of_few(const float* values, int64_t n, int64_t k) {
    Floats held[GROUPS / LANES];
    for (Floats& some : held) some = all(-INF);
    std::memcpy(held, values, n * sizeof(float));
    float found = -INF;
    for (int64_t i = 0; i < n; ++i) {
        int n_above = 0;  // or equal
        for (const Floats& some : held)
            n_above += __builtin_popcount(bits_at_least(some, all(values[i])));
        found = n_above >= k ? std::max(found, values[i]) : found;
    }
    return found;
}

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
    return std::nextafter(kth_of_few(found, GROUPS, k), -INF);
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
    each_lane(
        n, [&](int64_t i) { return bits_above(lanes(values + i, n - i), all(least)); },
        [&](int64_t i) {
            if (values[i] > least) kept.push_back(values[i]);
            if (kept.size() > limit) cut();
        });
    if ((int64_t)kept.size() < k) return -INF;
    if ((int64_t)kept.size() <= GROUPS) return kth_of_few(kept.data(), kept.size(), k);
    cut();
    return least;
}

// Fills scores with the exact arrow scores of these rows.
template <class Element>
void exact_scores(
    const Stack& stack, const float* x, const int32_t* rows, int64_t n, float* scores) {
    if (stack.is_announced)
        for (int64_t i = 0; i < n; ++i)
            announce(stack.arrow[rows[i]], stack.d_in * sizeof(Element));
    std::vector<const Element*> lines(n + 2 * TILE_ROWS, (const Element*)stack.arrow[0]);
    for (int64_t i = 0; i < n; ++i) lines[i] = (const Element*)stack.arrow[rows[i]];
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
    const float* below = compact;  // what the scores are at least, but for bound.common
    if (bound.own) {
        scratch.lower.resize(n);
        for (int64_t i = 0; i < n; ++i) scratch.lower[i] = compact[i] - bound.own[i] * bound.scale;
        below = scratch.lower.data();
    }
    auto upper = [&](int64_t i) { return 2 * compact[i] - below[i] + bound.common; };
    const float least = kth_largest(below, n, k, scratch.kept) - bound.common;
    const float cutoff = std::max(least - tolerance, -std::numeric_limits<float>::max());
    each_lane(
        n,
        [&](int64_t i) {
            const Floats above = 2 * lanes(compact + i, n - i) - lanes(below + i, n - i);
            return bits_at_least(above + bound.common, all(cutoff));
        },
        [&](int64_t i) { rows.push_back((int32_t)i); });
    if (!exact) {
        // With fewer than k others that might come so high, a row is chosen whatever they are.
        scores.clear();
        for (int32_t row : rows) scores.push_back(upper(row));
        const float sure =
            2 * tolerance + kth_largest(scores.data(), scores.size(), k + 1, scratch.kept);
        std::erase_if(rows, [&](int32_t row) {
            const bool is_sure = below[row] - bound.common > sure;
            if (is_sure) scratch.chosen.push_back({row, INF});
            return is_sure;
        });
    }
    scores.resize(rows.size());
    exact_scores<Element>(stack, x, rows.data(), rows.size(), scores.data());
    const int64_t n_sure = scratch.chosen.size();
    keep_largest(rows, scores, k - n_sure, tolerance, scratch);
}

}  // namespace lag
