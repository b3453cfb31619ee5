// The running softmax of the two rows that a thread shares with the other three of its quad.
#pragma once

#include <cute/tensor.hpp>

namespace sky4::cuda::sm90 {

constexpr float kLog2E = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;

// The hardware's exponential and logarithm (two units in the last place), whatever -use_fast_math says; exp2(-inf) = 0.
__device__ __forceinline__ float fast_exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ float fast_log2(float x) {
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

__device__ __forceinline__ float quad_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

// Columns from `valid` on count for nothing.
template <class Scores>
__device__ __forceinline__ void mask_columns(Scores& scores, int valid) {
    const int limit = valid - 2 * static_cast<int>(threadIdx.x % 4);
    CUTE_UNROLL
    for (int e = 0; e < cute::size(scores); ++e)
        if (e / 4 * 8 + e % 2 >= limit) scores(e) = -INFINITY;
}

// Scores become exp2(scale_log2 (s - max)), scale_log2 = scale log2(e) > 0. Every tile has at least one valid column,
// so the maximum is finite from the first tile on and no difference of infinities arises.
struct RunningSoftmax {
    float scale_log2;
    float max[2];
    float sum[2];  // of this thread's columns only, until `total`

    // The first tile: nothing to rescale.
    template <class Scores>
    __device__ __forceinline__ void start(Scores& scores) {
        CUTE_UNROLL
        for (int r = 0; r < 2; ++r) {
            max[r] = quad_max(row_max(scores, r, -INFINITY));
            sum[r] = exponentiate(scores, r);
        }
    }

    // A later tile: `shrink` is what the sums, and so the outputs, so far must be multiplied by.
    template <class Scores>
    __device__ __forceinline__ void update(Scores& scores, float (&shrink)[2]) {
        CUTE_UNROLL
        for (int r = 0; r < 2; ++r) {
            const float old = max[r];
            max[r] = quad_max(row_max(scores, r, old));
            shrink[r] = fast_exp2((old - max[r]) * scale_log2);
            sum[r] = sum[r] * shrink[r] + exponentiate(scores, r);
        }
    }

    // The assembler would hoist the wait for P V, issued before this softmax to run beside it, to the softmax's start.
    // It keeps its place after a branch that needs all exponentials: one that is never taken, as no sum is negative.
    __device__ __forceinline__ void hold() const {
        asm volatile("{ .reg .pred p; setp.lt.f32 p, %0, 0f00000000; @p nanosleep.u32 0; }" ::"f"(sum[0] + sum[1]));
    }

    __device__ __forceinline__ float total(int r) const { return quad_sum(sum[r]); }

    // Natural logarithm of the sum of exp(scale s) over all keys.
    __device__ __forceinline__ float log_sum_exp(int r, float total) const {
        return (max[r] * scale_log2 + fast_log2(total)) * kLn2;
    }

private:
    template <class Scores>
    __device__ __forceinline__ static float row_max(const Scores& scores, int r, float start) {
        float result = start;
        CUTE_UNROLL
        for (int n = 0; n < cute::size(scores) / 4; ++n)
            result = fmaxf(result, fmaxf(scores(4 * n + 2 * r), scores(4 * n + 2 * r + 1)));
        return result;
    }

    template <class Scores>
    __device__ __forceinline__ float exponentiate(Scores& scores, int r) const {
        const float offset = max[r] * scale_log2;
        float even = 0.0f, odd = 0.0f;
        CUTE_UNROLL
        for (int n = 0; n < cute::size(scores) / 4; ++n) {
            float& a = scores(4 * n + 2 * r);
            float& b = scores(4 * n + 2 * r + 1);
            a = fast_exp2(a * scale_log2 - offset);
            b = fast_exp2(b * scale_log2 - offset);
            even += a;
            odd += b;
        }
        return even + odd;
    }
};

// O *= shrink, row by row.
template <class Output>
__device__ __forceinline__ void rescale(Output& output, const float (&shrink)[2]) {
    CUTE_UNROLL
    for (int e = 0; e < cute::size(output); ++e) output(e) *= shrink[e / 2 % 2];
}

}  // namespace sky4::cuda::sm90
