// What Python hands over; the ctypes structures of `structs.py` mirror these field by field.
#pragma once

#include <cstdint>

#include "vectors.h"

namespace lag {

enum Element : int32_t { FLOAT32 = 0, BFLOAT16 = 1, FLOAT16 = 2 };

// Calls use(zero) with a zero of the element's type.
template <class Use>
inline auto with_type(int32_t element, Use use) {
    if (element == FLOAT32) return use(float{});
    if (element == BFLOAT16) return use(bfloat16{});
    return use(float16{});
}

enum Kind : int32_t { LAG = 0, ARROW = 1 };
enum Score : int32_t { BY_ARROW = 0, BY_PROJECTION = 1, BY_NORM = 2, BY_RELATIVE = 3 };

constexpr int32_t NIBBLE_ZERO = 8;  // how zero is written in four bits

// One module's adapters of one kind.
struct Stack {
    int64_t n, d_in, d_out, rank;
    int32_t arrow_element, factor_element;
    const int64_t* arrow;   // (n,) addresses of (d_in,)
    const float* singular;  // (n, rank)
    const int64_t* A;       // (n,) addresses of (ranks[i], d_in)
    const int64_t* B;       // (n,) addresses of (ranks[i], d_out)
    const int64_t* ranks;   // (n,)
    // Compact arrow vectors with, for each, an upper bound of the length of what was rounded away;
    // null where there are none, and errors where nothing was. Lines are padded with zeros.
    const int8_t* codes;       // (n, code_stride), times scales
    const float* scales;       // (n,)
    const float* code_errors;  // (n,)
    const int64_t* halves;     // (n,) addresses of (half_stride,) in bfloat16
    const float* half_errors;  // (n,)
    int64_t code_stride, half_stride;
    // The same in four bits, not padded with zeros, for calls that permit it; see `coarse.h`.
    const uint8_t* nibbles;      // (n, nibble_stride), less NIBBLE_ZERO, times nibble_scales
    const float* nibble_scales;  // (n,)
    const float* nibble_errors;  // (n,)
    int64_t nibble_stride;
    float reach;  // the length of the longest arrow vector
    int32_t is_announced;  // whether rows are asked for before they are read; see `announce.h`
};

// How one plan chooses.
struct Router {
    int32_t kind, score;
    int64_t k;      // retrieved
    int64_t k_min;  // adaptive: least number kept; 0 keeps all retrieved
    float keep;     // adaptive: share of the best arrow score
    float floor;    // -infinity for none
    float temperature;
    const uint8_t* allowed;  // (n,), or null for all
    int64_t n_allowed;
};

// The tokens, and room for what was decided about them.
struct Call {
    const void* x;  // (n_tokens, d_in)
    int32_t x_element, n_threads;
    int64_t n_tokens, width;     // columns of rows, scores and weights
    const int32_t* router_of;    // (n_tokens,), -1 for none; null where all have the first
    int64_t* rows;               // (n_tokens, width); null where nobody asks for the choice
    float* scores;               // (n_tokens, width)
    float* weights;              // (n_tokens, width)
    const void* base;            // (n_tokens, d_out), what updates are added to; null for zeros
    void* total;                 // (n_tokens, d_out)
    int32_t total_element;       // of base and total, no FLOAT16; FLOAT32 without a base
    int32_t is_approximate;      // whether few tokens may be scored in four bits
};

}  // namespace lag
