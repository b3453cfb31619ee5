// Fragments of O to memory. Rows that do not exist have the address nullptr.
#pragma once

#include <cutlass/numeric_conversion.h>
#include <cute/tensor.hpp>

namespace sky4::cuda::sm90 {

// Lane q of a quad holds word[k] = element (q, k) of a 4 x 4 matrix; afterwards element (k, q).
__device__ __forceinline__ void transpose_quad(uint32_t (&word)[4]) {
    const bool odd = threadIdx.x & 1, upper = threadIdx.x & 2;
    CUTE_UNROLL
    for (int k = 0; k < 4; k += 2) {
        const uint32_t other = __shfl_xor_sync(0xffffffffu, odd ? word[k] : word[k + 1], 1);
        word[k] = odd ? other : word[k];
        word[k + 1] = odd ? word[k + 1] : other;
    }
    CUTE_UNROLL
    for (int k = 0; k < 2; ++k) {
        const uint32_t other = __shfl_xor_sync(0xffffffffu, upper ? word[k] : word[k + 2], 2);
        word[k] = upper ? other : word[k];
        word[k + 2] = upper ? word[k + 2] : other;
    }
}

// row[r][c] = round(factor[r] o): the quad turns its words so that each lane writes 16 bytes.
template <class T, class Output>
__device__ __forceinline__ void store_rows(const Output& output, const float (&factor)[2], T* const (&row)[2]) {
    cutlass::NumericArrayConverter<T, float, 2> convert;
    const int lane = threadIdx.x % 4;
    CUTE_UNROLL
    for (int r = 0; r < 2; ++r) {
        CUTE_UNROLL
        for (int n = 0; n < cute::size(output) / 4; n += 4) {
            uint32_t word[4];
            CUTE_UNROLL
            for (int k = 0; k < 4; ++k) {
                const int e = 4 * (n + k) + 2 * r;
                const auto pair = convert(cutlass::Array<float, 2>{output(e) * factor[r], output(e + 1) * factor[r]});
                word[k] = reinterpret_cast<const uint32_t&>(pair);
            }
            transpose_quad(word);
            if (row[r] != nullptr)
                *reinterpret_cast<uint4*>(row[r] + 8 * (n + lane)) = make_uint4(word[0], word[1], word[2], word[3]);
        }
    }
}

// The same unrounded, for a split of the keys that is combined later.
template <class Output>
__device__ __forceinline__ void store_rows(const Output& output, const float (&factor)[2], float* const (&row)[2]) {
    const int column = 2 * static_cast<int>(threadIdx.x % 4);
    CUTE_UNROLL
    for (int r = 0; r < 2; ++r) {
        if (row[r] == nullptr) continue;
        CUTE_UNROLL
        for (int n = 0; n < cute::size(output) / 4; ++n) {
            const int e = 4 * n + 2 * r;
            *reinterpret_cast<float2*>(row[r] + 8 * n + column) =
                make_float2(output(e) * factor[r], output(e + 1) * factor[r]);
        }
    }
}

}  // namespace sky4::cuda::sm90
