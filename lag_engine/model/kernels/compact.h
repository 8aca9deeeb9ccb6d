// Arrow vectors in fewer bytes, each with a bound of the length of what was rounded away.
//
// The bound makes a scan of them exact: what it cannot decide is scored again from the vectors
// themselves (see `retrieve.h`).
#pragma once

#include <algorithm>
#include <cmath>

#include "structs.h"
#include "tokens.h"

namespace lag {

constexpr float LARGEST_CODE = 127.0f;
constexpr float SLACK = 1.0001f;  // covers the rounding of the bounds themselves

// Writes a vector as codes; returns what one step of them is worth.
template <class Element>
float write_codes(const Element* vector, int64_t n, int8_t* codes, float& error) {
    const float largest = largest_of(vector, n);
    const float scale = largest / LARGEST_CODE, inverse = largest > 0 ? LARGEST_CODE / largest : 0;
    Floats squares = {};
    each_vector(n, [&](int64_t j, int64_t width) {
        const Floats v = some_floats(vector + j, width), steps = v * inverse;
        const Floats half = steps > 0 ? (Floats){} + 0.5f : (Floats){} - 0.5f;
        const Integers whole = __builtin_convertvector(steps + half, Integers);
        const Floats gone = v - scale * __builtin_convertvector(whole, Floats);
        squares += gone * gone;
        for (int64_t i = 0; i < width; ++i) codes[j + i] = (int8_t)whole[i];
    });
    error = std::sqrt(sum(squares)) * SLACK;
    return scale;
}

// Calls use(row, vector) for each arrow vector of a stack.
template <class Use>
void each_arrow(const Stack& stack, int n_threads, Use use) {
#pragma omp parallel for num_threads(n_threads) schedule(static) if (n_threads > 1)
    for (int64_t row = 0; row < stack.n; ++row) {
        if (stack.arrow_element == FLOAT32) use(row, (const float*)stack.arrow[row]);
        else use(row, (const bfloat16*)stack.arrow[row]);
    }
}

}  // namespace lag
