// The routed update of one linear module: retrieve by arrow score, rerank, apply; one call.
//
// The reference is `lag_engine.routing`: the same rows, the same numbers to rounding.
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "coarse.h"
#include "compact.h"
#include "retrieve.h"
#include "scan.h"
#include "structs.h"
#include "tokens.h"
#include "update.h"

namespace lag {
namespace {

constexpr int64_t MANY_TOKENS = 3;
constexpr int64_t SCORE_ELEMENTS = 1 << 20;  // of the compact scores at one time: 4 MiB

// Returns a token's router; null where it has none.
const Router* router_of(const Call& call, const Router* routers, int64_t t) {
    const int32_t index = call.router_of ? call.router_of[t] : 0;
    return index < 0 ? nullptr : routers + index;
}

void retrieve_token(
    const Stack& stack, const Tokens& tokens, int64_t t, const Router& router, float* compact,
    const Bound& bound, Scratch& scratch) {
    if (router.allowed)
        for (int64_t i = 0; i < stack.n; ++i)
            if (!router.allowed[i]) compact[i] = -INF;
    const int64_t n_allowed = router.allowed ? router.n_allowed : stack.n;
    const int64_t k = std::min(router.k, n_allowed);
    const bool exact = router.kind == ARROW || router.k_min > 0;
    scratch.chosen.clear();
    if (k > 0)
        with_type(stack.arrow_element, [&](auto zero) {
            choose<decltype(zero)>(
                stack, tokens.line(t), compact, bound, k, tokens.tolerance(t), exact, scratch);
        });
    if (router.kind == ARROW)  // all are applied: the best is named first
        std::sort(scratch.chosen.begin(), scratch.chosen.end(), [](auto& a, auto& b) {
            return a.score > b.score || (a.score == b.score && a.row < b.row);
        });
    if (router.k_min == 0) return;
    std::vector<float> order;
    for (const Candidate& c : scratch.chosen) order.push_back(c.score);
    std::sort(order.begin(), order.end(), std::greater<float>());
    if (order.empty()) return;
    const float lowest = router.k_min <= (int64_t)order.size() ? order[router.k_min - 1] : -INF;
    const float needed = std::min(order[0] * router.keep, lowest);
    std::erase_if(scratch.chosen, [&](const Candidate& c) { return c.score < needed; });
}

using Chosen = std::vector<std::vector<Candidate>>;

// whole: all of the tokens, where they are to be scored in four bits.
Chosen retrieve(
    const Stack& stack, const Router* routers, const Call& call, const Tokens& tokens,
    Precision precision, const std::vector<Whole>& whole) {
    Chosen chosen(tokens.n);
    const int64_t chunk = std::clamp(SCORE_ELEMENTS / stack.n, (int64_t)16, tokens.n + 16);
    const auto room = std::make_unique_for_overwrite<float[]>(std::min(chunk, tokens.n) * stack.n);
    float* compact = room.get();
    for (int64_t first = 0; first < tokens.n; first += chunk) {
        const int64_t n = std::min(chunk, tokens.n - first);
        if (whole.empty()) scan(stack, tokens, first, n, precision, call.n_threads, compact);
        else scan_nibbles(stack, whole, call.n_threads, compact);
#pragma omp parallel num_threads(call.n_threads) if (n > 1 && call.n_threads > 1)
        {
            Scratch scratch;
#pragma omp for schedule(dynamic, 4)
            for (int64_t i = 0; i < n; ++i) {
                const int64_t t = first + i;
                const Router* router = router_of(call, routers, t);
                if (!router) continue;
                const Bound bound = whole.empty() ? bound_of(stack, tokens, t, precision)
                                                  : coarse_bound(stack, tokens, t, whole[t]);
                retrieve_token(stack, tokens, t, *router, compact + i * stack.n, bound, scratch);
                chosen[t] = scratch.chosen;
            }
        }
    }
    return chosen;
}

// One token's candidates and their z, as decided on.
struct Decision {
    const Stack& stack;
    const Router& router;
    const std::vector<Candidate>& candidates;
    float tolerance;
    const float* z;  // (candidates, rank)
    int64_t* rows;
    float* scores;
    float* weights;

    // The best reranked candidate; of equal ones the lowest row.
    int64_t best() const {
        const int64_t n = candidates.size();
        std::vector<float> found(n);
        float largest = -INF;
        for (int64_t i = 0; i < n; ++i) {
            found[i] = rerank_score(z + i * stack.rank, singular(i), stack.rank, router.score);
            largest = std::max(largest, found[i]);
        }
        int64_t best = -1;
        for (int64_t i = 0; i < n; ++i) {
            const float near = router.score == BY_NORM ? tolerance * singular(i)[0] : tolerance;
            const bool tied = found[i] + near >= largest;
            if (tied && (best < 0 || candidates[i].row < candidates[best].row)) best = i;
        }
        if (best < 0) return best;
        scores[0] = found[best];
        if (found[best] < router.floor) return -1;
        rows[0] = candidates[best].row;
        weights[0] = 1.0f;
        return best;
    }

    // Arrow's mix: a softmax over the scores of all candidates.
    void mix() const {
        float largest = -INF, sum = 0;
        for (const Candidate& c : candidates) largest = std::max(largest, c.score);
        for (size_t i = 0; i < candidates.size(); ++i) {
            rows[i] = candidates[i].row;
            scores[i] = candidates[i].score;
            weights[i] = std::exp((scores[i] - largest) / router.temperature);
            sum += weights[i];
        }
        for (size_t i = 0; i < candidates.size(); ++i) weights[i] /= sum;
    }

    const float* singular(int64_t i) const {
        return stack.singular + candidates[i].row * stack.rank;
    }
};

template <class Element>
void update(
    const Stack& stack, const Router* routers, const Call& call, const Tokens& tokens,
    const Chosen& chosen, float* total) {
    Pairs pairs, applied;
    std::vector<int64_t> first(tokens.n);
    for (int64_t t = 0; t < tokens.n; ++t) {
        first[t] = pairs.row.size();
        for (const Candidate& c : chosen[t]) pairs.add(c.row, (int32_t)t);
    }
    pairs.group(stack.n);
    std::vector<float> z(pairs.row.size() * stack.rank, 0.0f), coefficients;
    project<Element>(stack, tokens, pairs, call.n_threads, z.data());
    auto apply_pair = [&](int64_t t, const Candidate& c, const float* of, float weight) {
        applied.add(c.row, (int32_t)t);
        for (int64_t r = 0; r < stack.rank; ++r) coefficients.push_back(of[r] * weight);
    };
    for (int64_t t = 0; t < tokens.n; ++t) {
        const Router* router = router_of(call, routers, t);
        if (!router) continue;
        const int64_t at = t * call.width;
        const float* of = z.data() + first[t] * stack.rank;
        const Decision decision{stack, *router, chosen[t], tokens.tolerance(t), of,
                                call.rows + at, call.scores + at, call.weights + at};
        if (decision.router.kind == ARROW) {
            decision.mix();
            for (size_t i = 0; i < chosen[t].size(); ++i)
                apply_pair(t, chosen[t][i], of + i * stack.rank, call.weights[at + i]);
        } else if (const int64_t i = decision.best(); i >= 0) {
            apply_pair(t, chosen[t][i], of + i * stack.rank, 1.0f);
        }
    }
    applied.group(stack.n);
    apply<Element>(stack, applied, coefficients.data(), call.n_threads, total);
}

// Fills total with base plus the sums, each rounded as PyTorch does.
void add_to_base(const Call& call, const float* sums, int64_t d_out) {
    const int64_t n_tokens = call.n_tokens;
#pragma omp parallel for num_threads(call.n_threads) if (n_tokens > 1 && call.n_threads > 1)
    for (int64_t t = 0; t < n_tokens; ++t)
        each_vector(d_out, [&](int64_t j, int64_t width) {
            const int64_t i = t * d_out + j;
            const Floats found = some_floats(sums + i, width);
            if (call.total_element == FLOAT32) {
                store(some_floats((const float*)call.base + i, width) + found,
                      (float*)call.total + i, width);
            } else {
                const Floats base = some_floats((const bfloat16*)call.base + i, width);
                store(rounded(base + rounded(found)), (bfloat16*)call.total + i, width);
            }
        });
}

void route(const Stack& stack, const Router* routers, Call call) {
    const int64_t n_places = call.n_tokens * call.width, n_sums = call.n_tokens * stack.d_out;
    std::vector<int64_t> rows(call.rows ? 0 : n_places);
    std::vector<float> numbers(call.rows ? 0 : 2 * n_places);
    const auto sums = std::make_unique_for_overwrite<float[]>(call.base ? n_sums : 0);
    if (!call.rows) {
        call.rows = rows.data();
        call.scores = numbers.data();
        call.weights = numbers.data() + n_places;
    }
    float* total = call.base ? sums.get() : (float*)call.total;
    std::fill_n(call.rows, n_places, (int64_t)-1);
    std::fill_n(call.scores, n_places, 0.0f);
    std::fill_n(call.weights, n_places, 0.0f);
    std::fill_n(total, n_sums, 0.0f);
    const bool is_coarse = call.is_approximate && stack.nibbles && call.n_tokens < MANY_TOKENS;
    const Precision precision =
        is_coarse ? EXACT : precision_of(stack, call.n_tokens, MANY_TOKENS);
    const Tokens tokens =
        read_tokens(call, stack.d_in, precision == HALVES ? stack.half_stride : 0,
                    precision == CODES);
    const std::vector<Whole> whole = is_coarse ? whole_tokens(tokens) : std::vector<Whole>{};
    const Chosen chosen = retrieve(stack, routers, call, tokens, precision, whole);
    with_type(stack.factor_element, [&](auto zero) {
        update<decltype(zero)>(stack, routers, call, tokens, chosen, total);
    });
    if (call.base) add_to_base(call, total, stack.d_out);
}

}  // namespace
}  // namespace lag

extern "C" {

// Returns 0, or 1 where there is no memory.
int lag_route(const lag::Stack* stack, const lag::Router* routers, const lag::Call* call) {
    try {
        lag::route(*stack, routers, *call);
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}

// Returns an upper bound of the length of every arrow vector.
float lag_reach(const lag::Stack* stack) {
    float reach = 0;
    lag::each_arrow(*stack, 1, [&](int64_t, const auto* vector) {
        reach = std::max(reach, lag::length(vector, stack->d_in) * lag::SLACK);
    });
    return reach;
}

// Fills codes (n, stride) and scales and errors (n,) from the arrow vectors.
void lag_codes(
    const lag::Stack* stack, int n_threads, int8_t* codes, int64_t stride, float* scales,
    float* errors) {
    lag::each_arrow(*stack, n_threads, [&](int64_t row, const auto* vector) {
        scales[row] = lag::write_codes(vector, stack->d_in, codes + row * stride, errors[row]);
    });
}

// Whether this processor has the instructions that make a scan of four bits pay.
int lag_reads_nibbles() { return lag::HAS_BYTE_DOTS; }

// Fills nibbles (n, stride), zeros before, and scales and errors (n,) from the arrow vectors.
void lag_nibbles(
    const lag::Stack* stack, int n_threads, uint8_t* nibbles, int64_t stride, float* scales,
    float* errors) {
    lag::each_arrow(*stack, n_threads, [&](int64_t row, const auto* vector) {
        scales[row] = lag::write_nibbles(vector, stack->d_in, nibbles + row * stride, errors[row]);
    });
}

// Fills halves (n, stride) and errors (n,) from the arrow vectors.
void lag_halves(
    const lag::Stack* stack, int n_threads, lag::bfloat16* halves, int64_t stride, float* errors) {
    lag::each_arrow(*stack, n_threads, [&](int64_t row, const auto* vector) {
        lag::round_line(vector, halves + row * stride, errors[row], stack->d_in);
    });
}

}  // extern "C"
