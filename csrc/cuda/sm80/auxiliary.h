// The small kernels around attention: the sum of splits, the backward's row statistics, the index turned round.
// Each item is done by one warp.
#pragma once

#include "tiles.h"
#include "warp_math.h"

namespace sky4::cuda::sm80 {

// The item of this warp; a launch covers all items with whole blocks.
__device__ __forceinline__ int64_t warp_item() { return static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32; }

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) x += __shfl_xor_sync(0xffffffffu, x, lanes);
    return x;
}

// out[b, row, h] = sum over splits of exp(lse_s - lse) partial_s, for item (b, h, row).
template <typename T>
__global__ void __launch_bounds__(kThreads) combine_splits(const __grid_constant__ AttentionParams p, int dim) {
    const int64_t item = warp_item(), items = static_cast<int64_t>(p.batch) * p.heads * p.total_queries;
    if (item >= items) return;
    const int64_t row = item % p.total_queries;
    const int head = static_cast<int>(item / p.total_queries % p.heads);
    const int batch = static_cast<int>(item / p.total_queries / p.heads);

    float high = -INFINITY;
    for (int s = 0; s < p.splits; ++s) high = fmaxf(high, p.partial_lse[s * items + item]);
    const float shift = high == -INFINITY ? 0.0f : high;
    float sum = 0.0f;
    for (int s = 0; s < p.splits; ++s) sum += expf(p.partial_lse[s * items + item] - shift);
    const float factor = sum == 0.0f ? 0.0f : 1.0f / sum;

    const int lane = threadIdx.x % 32;
    for (int channel = 2 * lane; channel < dim; channel += 64) {
        float2 total{0.0f, 0.0f};
        for (int s = 0; s < p.splits; ++s) {
            const float weight = expf(p.partial_lse[s * items + item] - shift) * factor;
            const float2 part = *reinterpret_cast<const float2*>(p.partial_out + (s * items + item) * dim + channel);
            total.x = fmaf(weight, part.x, total.x);
            total.y = fmaf(weight, part.y, total.y);
        }
        *reinterpret_cast<uint32_t*>(p.out.at(batch, head, row) + channel) = pack<T>(total.x, total.y);
    }
    if (p.lse != nullptr && lane == 0) p.lse[item] = sum == 0.0f ? -INFINITY : high + logf(sum);
}

// stats[b, h, row] = (lse in units of log 2, rowsum(dO O)), for item (b, row, h): neighbouring warps read on.
// A row without keys gets +inf, so that its weights exp(s - lse) are zero.
template <typename T>
__global__ void __launch_bounds__(kThreads) backward_stats(const __grid_constant__ AttentionParams p, int dim) {
    const int64_t item = warp_item();
    if (item >= static_cast<int64_t>(p.batch) * p.heads * p.total_queries) return;
    const int head = static_cast<int>(item % p.heads);
    const int64_t row = item / p.heads % p.total_queries;
    const int batch = static_cast<int>(item / p.heads / p.total_queries);

    const int lane = threadIdx.x % 32;
    const uint16_t *out = p.out.at(batch, head, row), *grad_out = p.grad_out.at(batch, head, row);
    float delta = 0.0f;
    for (int channel = 2 * lane; channel < dim; channel += 64) {
        const float2 a = unpack<T>(*reinterpret_cast<const uint32_t*>(out + channel));
        const float2 b = unpack<T>(*reinterpret_cast<const uint32_t*>(grad_out + channel));
        delta = fmaf(a.x, b.x, fmaf(a.y, b.y, delta));
    }
    delta = warp_sum(delta);
    if (lane != 0) return;
    const int64_t stat = stat_index(p, batch, head, row);
    const float lse = p.lse[stat];
    p.stats[stat] = float2{lse == -INFINITY ? INFINITY : lse * 1.44269504f, delta};
}

// [rows, row_words] bits, once per (b, h), become [columns, column_words] bits: item (b, h, 32 columns, 32 rows).
__global__ void __launch_bounds__(kThreads)
    transpose_selection(const uint32_t* from, uint32_t* to, int64_t matrices, int rows, int columns) {
    const int row_words = tiles_of(columns, 32), column_words = tiles_of(rows, 32);
    const int64_t item = warp_item();
    if (item >= matrices * row_words * column_words) return;
    const int row_block = static_cast<int>(item % column_words);
    const int column_block = static_cast<int>(item / column_words % row_words);
    const int64_t matrix = item / column_words / row_words;

    const int lane = threadIdx.x % 32, row = 32 * row_block + lane;
    const uint32_t bits = row < rows ? from[(matrix * rows + row) * row_words + column_block] : 0u;
    uint32_t turned = 0;
    for (int bit = 0; bit < 32; ++bit) {
        const uint32_t column = __ballot_sync(0xffffffffu, bits >> bit & 1u);
        if (lane == bit) turned = column;
    }
    const int column = 32 * column_block + lane;
    if (column < columns) to[(matrix * columns + column) * column_words + row_block] = turned;
}

}  // namespace sky4::cuda::sm80
