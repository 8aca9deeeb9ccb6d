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

constexpr float LARGEST_CODE = 127.0f, LARGEST_NIBBLE = 7.0f;
constexpr float SLACK = 1.0001f;  // covers the rounding of the bounds themselves

// Writes a vector as whole numbers up to `most`, each by put(place, number); returns what one is
// worth.
template <class Element, class Put>
float write_whole(const Element* vector, int64_t n, float most, float& error, Put put) {
    const float largest = largest_of(vector, n);
    const float scale = largest / most, inverse = largest > 0 ? most / largest : 0;
    Floats squares = {};
    each_vector(n, [&](int64_t j, int64_t width) {
        const Floats v = some_floats(vector + j, width), steps = v * inverse;
        const Floats half = steps > 0 ? (Floats){} + 0.5f : (Floats){} - 0.5f;
        const Integers whole = __builtin_convertvector(steps + half, Integers);
        const Floats gone = v - scale * __builtin_convertvector(whole, Floats);
        squares += gone * gone;
        for (int64_t i = 0; i < width; ++i) put(j + i, whole[i]);
    });
    error = std::sqrt(sum(squares)) * SLACK;
    return scale;
}

// Writes a vector as codes; returns what one step of them is worth.
template <class Element>
float write_codes(const Element* vector, int64_t n, int8_t* codes, float& error) {
    return write_whole(vector, n, LARGEST_CODE, error,
                       [&](int64_t j, int32_t code) { codes[j] = (int8_t)code; });
}

// As `write_codes`, in four bits, to zeros: of each 128 elements the first 64 are low halves.
template <class Element>
float write_nibbles(const Element* vector, int64_t n, uint8_t* nibbles, float& error) {
    return write_whole(vector, n, LARGEST_NIBBLE, error, [&](int64_t j, int32_t code) {
        nibbles[j / 128 * 64 + j % 64] |= (uint8_t)(code + NIBBLE_ZERO) << (j / 64 % 2 * 4);
    });
}

// Calls use(row, vector) for each arrow vector of a stack.
template <class Use>
void each_arrow(const Stack& stack, int n_threads, Use use) {
#pragma omp parallel for num_threads(n_threads) schedule(static) if (n_threads > 1)
    for (int64_t row = 0; row < stack.n; ++row)
        with_type(stack.arrow_element, [&](auto zero) {
            use(row, (const decltype(zero)*)stack.arrow[row]);
        });
}

}  // namespace lag
