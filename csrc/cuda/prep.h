// What the kernels of qk_norm_rope.cu share, and those that take any number of channels and any alignment.
#pragma once

#include "elements.h"

namespace sky4::cuda {

enum class Norm { none, head, row };

struct Rows {
    void* data;
    int64_t batch, token, head;  // strides in elements
};

// Of x's type or float32.
struct Factors {
    const void* data;
    bool is_float;

    template <typename T>
    __device__ float at(int64_t i) const {
        return is_float ? static_cast<const float*>(data)[i] : widen(static_cast<const T*>(data)[i]);
    }

    // Those of a chunk of T that begins at the aligned index i.
    template <typename T>
    __device__ Chunk<T> chunk(int64_t i) const {
        if (!is_float) return Chunk<T>::of(load_16(static_cast<const T*>(data) + i));
        Chunk<T> all;
#pragma unroll
        for (int k = 0; k < kChunk<T>; k += 4) {
            const Chunk<float> four = Chunk<float>::of(load_16(static_cast<const float*>(data) + i + k));
#pragma unroll
            for (int l = 0; l < 4; ++l) all.at[k + l] = four.at[l];
        }
        return all;
    }
};

struct Prep {
    Rows x, out, pooled;
    Factors bias, weight;
    const float* turn;      // [1 or B, N, d / 2, 2], or null
    int64_t turn_batch;     // its stride along the batch, 0 where all samples turn alike
    const int64_t* order;   // [N], or null
    const int32_t* starts;  // [M + 1], or null: blocks of block_rows rows
    int64_t N, block_rows;
    int32_t H, d;
    Norm norm;
    float eps, share;  // share: 1 / the elements of a norm

    __device__ int64_t token(int64_t row) const { return order != nullptr ? order[row] : row; }
    __device__ float inverse(float squares) const { return rsqrtf(squares * share + eps); }
};

template <typename T>
__device__ T* row_of(const Rows& rows, int64_t b, int64_t token, int h) {
    return static_cast<T*>(rows.data) + b * rows.batch + token * rows.token + h * rows.head;
}

// The sum over `lanes` neighbouring lanes, a power of two.
__device__ inline float sum_over(float value, int lanes) {
    for (int step = lanes / 2; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
    return value;
}

// Any number of channels, any alignment: a warp per norm (a head of a row, or a row), one element at a time.
template <typename T>
__global__ void prep_any(const __grid_constant__ Prep p, int64_t norms) {
    const int lane = threadIdx.x % 32, heads = p.norm == Norm::row ? p.H : 1;
    const int64_t item = static_cast<int64_t>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
    if (item >= norms) return;
    const int64_t groups = p.H / heads, row = item / groups % p.N, b = item / groups / p.N, token = p.token(row);
    const int first_head = static_cast<int>(item % groups) * heads;
    const auto biased = [&](int h, int j) {
        const float x = widen(row_of<const T>(p.x, b, token, h)[j]);
        return p.bias.data != nullptr ? x + p.bias.at<T>(h * p.d + j) : x;
    };
    float inverse = 1;
    if (p.norm != Norm::none) {
        float squares = 0;
        for (int i = lane; i < heads * p.d; i += 32) {
            const float y = biased(first_head + i / p.d, i % p.d);
            squares += y * y;
        }
        inverse = p.inverse(sum_over(squares, 32));
    }
    const auto scaled = [&](int h, int j) {
        const float y = biased(h, j) * inverse;
        if (p.norm == Norm::none) return y;
        return y * p.weight.at<T>(p.norm == Norm::row ? h * p.d + j : j);
    };
    for (int i = lane; i < heads * p.d; i += 32) {
        const int h = first_head + i / p.d, j = i % p.d;
        float y = scaled(h, j);
        if (p.turn != nullptr) {
            const float* turn = p.turn + b * p.turn_batch + token * p.d + j / 2 * 2;
            y = y * turn[0] + scaled(h, j ^ 1) * (j % 2 == 0 ? -turn[1] : turn[1]);
        }
        row_of<T>(p.out, b, row, h)[j] = narrow<T>(y);
    }
}

// The cubes' means after prep_any. Block (cube, head, b).
template <typename T>
__global__ void pool_any(const __grid_constant__ Prep p) {
    const int64_t b = blockIdx.z, cube = blockIdx.x, first = p.starts[cube], last = p.starts[cube + 1];
    const int h = blockIdx.y;
    const float share = last > first ? 1.0f / static_cast<float>(last - first) : 0.0f;
    for (int j = threadIdx.x; j < p.d; j += blockDim.x) {
        float sum = 0;
        for (int64_t row = first; row < last; ++row) sum += widen(row_of<const T>(p.out, b, row, h)[j]);
        row_of<T>(p.pooled, b, cube, h)[j] = narrow<T>(sum * share);
    }
}

}  // namespace sky4::cuda
