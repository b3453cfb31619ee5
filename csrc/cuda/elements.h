// Elements as the bandwidth-bound kernels see them: float32 inside, 16 bytes at a time outside.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <string>

#include "../check.h"
#include "../tensor.h"

namespace sky4::cuda {

// float16 as its bits; bf16, its like, stands in tensor.h.
struct fp16 {
    uint16_t bits;
};

__device__ inline float widen(float x) { return x; }
__device__ inline float widen(bf16 x) { return __uint_as_float(static_cast<uint32_t>(x.bits) << 16); }
__device__ inline float widen(fp16 x) { return __half2float(__ushort_as_half(x.bits)); }

// Rounded to nearest, ties to even.
template <typename T>
__device__ T narrow(float x);
template <>
__device__ inline float narrow<float>(float x) {
    return x;
}
template <>
__device__ inline bf16 narrow<bf16>(float x) {
    return bf16{__bfloat16_as_ushort(__float2bfloat16_rn(x))};
}
template <>
__device__ inline fp16 narrow<fp16>(float x) {
    return fp16{__half_as_ushort(__float2half_rn(x))};
}

// How many elements 16 bytes hold.
template <typename T>
constexpr int kChunk = 16 / static_cast<int>(sizeof(T));

// 16 bytes of consecutive elements, in float32.
template <typename T>
struct Chunk {
    float at[kChunk<T>];

    __device__ static Chunk of(const uint4& raw) {
        const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
        Chunk chunk;
#pragma unroll
        for (int i = 0; i < kChunk<T>; ++i) {
            if constexpr (sizeof(T) == 4)
                chunk.at[i] = __uint_as_float(words[i]);
            else
                chunk.at[i] = widen(T{static_cast<uint16_t>(words[i / 2] >> (i % 2 * 16))});
        }
        return chunk;
    }

    __device__ uint4 rounded() const {
        uint32_t words[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if constexpr (sizeof(T) == 4)
                words[i] = __float_as_uint(at[i]);
            else
                words[i] = narrow<T>(at[2 * i]).bits | static_cast<uint32_t>(narrow<T>(at[2 * i + 1]).bits) << 16;
        }
        return uint4{words[0], words[1], words[2], words[3]};
    }
};

template <typename T>
__device__ inline uint4 load_16(const T* x) {
    return *reinterpret_cast<const uint4*>(x);
}

template <typename T>
__device__ inline void store_16(T* x, const uint4& raw) {
    *reinterpret_cast<uint4*>(x) = raw;
}

// Whether rows of x can be read and written 16 bytes at a time from any multiple of 16 / item along the last axis.
inline bool has_aligned_rows(const TensorRef& x) {
    const int64_t item = x.dtype == DType::boolean ? 1 : x.dtype == DType::float32 || x.dtype == DType::int32 ? 4 : 2;
    if (reinterpret_cast<uintptr_t>(x.data) % 16 != 0) return false;
    for (int i = 0; i + 1 < x.ndim; ++i)
        if (x.shape[i] > 1 && x.stride[i] * item % 16 != 0) return false;
    return true;
}

// Calls run with a value of the element type.
template <typename Run>
void with_element(const char* kernel, DType dtype, const Run& run) {
    if (dtype == DType::float32) return run(float{});
    if (dtype == DType::bfloat16) return run(bf16{});
    if (dtype == DType::float16) return run(fp16{});
    throw WrongType(std::string(kernel) + ": no CUDA kernel for dtype " + name(dtype));
}

}  // namespace sky4::cuda
