// What the chosen adapters add: z = A* x of the candidates, the choice among them, B*^T z.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "retrieve.h"
#include "structs.h"
#include "tokens.h"

namespace lag {

// Pairs of a token and a row, grouped by row: an adapter's factors are read once.
struct Pairs {
    std::vector<int32_t> row, token;   // of each pair, in the order in which they were added
    std::vector<int32_t> order;        // pairs, grouped by row
    std::vector<int32_t> groups;       // where in `order` each group starts, and its end

    void add(int32_t of_row, int32_t of_token) {
        row.push_back(of_row);
        token.push_back(of_token);
    }
    void group(int64_t n_rows) {
        std::vector<int32_t> start(n_rows + 1, 0);
        for (int32_t r : row) ++start[r + 1];
        groups.assign(1, 0);
        for (int64_t r = 0; r < n_rows; ++r) {
            if (start[r + 1]) groups.push_back(groups.back() + start[r + 1]);
            start[r + 1] += start[r];
        }
        order.resize(row.size());
        for (size_t i = 0; i < row.size(); ++i) order[start[row[i]]++] = (int32_t)i;
    }
    int64_t n_groups() const { return (int64_t)groups.size() - 1; }
    int32_t row_of(int64_t group) const { return row[order[groups[group]]]; }
};

// Asks for factors of all groups, whose rows have n_bytes each, where a stack wants that.
inline void announce_groups(
    const Stack& stack, const Pairs& pairs, const int64_t* factors, int64_t n_bytes) {
    if (!stack.is_announced) return;
    for (int64_t g = 0; g < pairs.n_groups(); ++g) {
        const int32_t row = pairs.row_of(g);
        announce(factors[row], stack.ranks[row] * n_bytes);
    }
}

// z[pair] = A* x of COLUMNS pairs from place i of the order on, for rows [first, first + ROWS);
// fetches those of the adapter that comes next.
template <int ROWS, int COLUMNS, class Element>
void project_tile(
    const Stack& stack, const Tokens& tokens, const Pairs& pairs, const Element* A,
    const Element* next, int64_t first, int64_t i, float* z) {
    const Element *lines[ROWS], *lines_ahead[ROWS];
    const float* columns[COLUMNS];
    float found[ROWS * COLUMNS];
    for (int r = 0; r < ROWS; ++r) {
        lines[r] = A + (first + r) * stack.d_in;
        lines_ahead[r] = next + (first + r) * stack.d_in;
    }
    for (int c = 0; c < COLUMNS; ++c) columns[c] = tokens.line(pairs.token[pairs.order[i + c]]);
    dots<ROWS, COLUMNS>(lines, columns, stack.d_in, found, next ? lines_ahead : nullptr);
    for (int c = 0; c < COLUMNS; ++c)
        for (int r = 0; r < ROWS; ++r)
            z[pairs.order[i + c] * stack.rank + first + r] = found[c * ROWS + r];
}

template <int ROWS, class Element>
void project_rows(
    const Stack& stack, const Tokens& tokens, const Pairs& pairs, const Element* A,
    const Element* next, int64_t first, int64_t from, int64_t to, float* z) {
    int64_t i = from;
    for (; i + TILE_COLUMNS <= to; i += TILE_COLUMNS) {
        project_tile<ROWS, TILE_COLUMNS>(stack, tokens, pairs, A, next, first, i, z);
        next = nullptr;  // it is fetched by now
    }
    if (to - i == 2) project_tile<ROWS, 2>(stack, tokens, pairs, A, next, first, i, z);
    if (to - i == 1) project_tile<ROWS, 1>(stack, tokens, pairs, A, next, first, i, z);
}

// Fills z (pairs, rank), zero beyond an adapter's own rank.
template <class Element>
void project(
    const Stack& stack, const Tokens& tokens, const Pairs& pairs, int n_threads, float* z) {
    const int64_t n_groups = pairs.n_groups();
    announce_groups(stack, pairs, stack.A, stack.d_in * sizeof(Element));
#pragma omp parallel for num_threads(n_threads) schedule(dynamic, 4) if (n_threads > 1)
    for (int64_t g = 0; g < n_groups; ++g) {
        const int64_t from = pairs.groups[g], to = pairs.groups[g + 1];
        const int32_t row = pairs.row_of(g);
        const int32_t after = pairs.row[pairs.order[std::min<int64_t>(to, pairs.order.size() - 1)]];
        const Element *A = (const Element*)stack.A[row], *next = (const Element*)stack.A[after];
        int64_t r = 0;
        for (; r + TILE_ROWS <= stack.ranks[row]; r += TILE_ROWS)
            project_rows<TILE_ROWS>(stack, tokens, pairs, A, next, r, from, to, z);
        for (; r < stack.ranks[row]; ++r)
            project_rows<1>(stack, tokens, pairs, A, next, r, from, to, z);
    }
}

inline float rerank_score(const float* z, const float* singular, int64_t rank, int32_t score) {
    if (score == BY_ARROW) return std::fabs(z[0]);
    float squares = 0, frobenius = 0;
    for (int64_t r = 0; r < rank; ++r) {
        const float part = score == BY_PROJECTION ? z[r] : z[r] * singular[r];
        squares += part * part;
        frobenius += singular[r] * singular[r];
    }
    if (score != BY_RELATIVE) return std::sqrt(squares);
    return frobenius > 0 ? std::sqrt(squares) / std::sqrt(frobenius) : 0.0f;
}

// total[token] += sum over its pairs of coefficient * B*^T z; each thread writes its own columns.
template <class Element>
void apply(
    const Stack& stack, const Pairs& pairs, const float* coefficients, int n_threads,
    float* total) {
    announce_groups(stack, pairs, stack.B, stack.d_out * sizeof(Element));
    const int64_t share = (stack.d_out / n_threads + LANES) / LANES * LANES;
#pragma omp parallel for num_threads(n_threads) schedule(static, 1) if (n_threads > 1)
    for (int thread = 0; thread < n_threads; ++thread) {
        const int64_t from = std::min(thread * share, stack.d_out);
        const int64_t to = std::min(from + share, stack.d_out);
        for (size_t i = 0; i < pairs.order.size(); ++i) {
            const int32_t pair = pairs.order[i], row = pairs.row[pair];
            const int32_t after = pairs.row[pairs.order[std::min(i + 1, pairs.order.size() - 1)]];
            const Element *B = (const Element*)stack.B[row], *next = (const Element*)stack.B[after];
            const int64_t n_ahead = after == row ? 0 : stack.ranks[after];
            float* out = total + pairs.token[pair] * stack.d_out;
            const float* c = coefficients + pair * stack.rank;
            each_vector(to - from, [&](int64_t at, int64_t width) {
                const int64_t j = from + at;
                if (at % CACHE_LINE<Element> == 0)
                    for (int64_t r = 0; r < n_ahead; ++r) fetch(next[r * stack.d_out + j]);
                Floats sums = some_floats(out + j, width);
                for (int64_t r = 0; r < stack.ranks[row]; ++r)
                    sums += c[r] * some_floats(B + r * stack.d_out + j, width);
                store(sums, out + j, width);
            });
        }
    }
}

}  // namespace lag
