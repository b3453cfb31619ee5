// Combines the results of the splits of the keys: O = sum of w_i O_i, w_i = exp(lse_i - lse).
//
// Without CuTe, which alone would take most of a minute to compile.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <type_traits>

#include "dense.h"

namespace sky4::cuda::sm90 {
namespace {

constexpr int kRowsPerBlock = 4;  // a warp each

template <DType kType, int kHeadDim>
__global__ void __launch_bounds__(32 * kRowsPerBlock) combine_splits(DenseParams p) {
    using T = std::conditional_t<kType == DType::bfloat16, __nv_bfloat16, __half>;
    constexpr int kPerLane = kHeadDim / 32;
    const int lane = threadIdx.x % 32;
    const int64_t all_rows = static_cast<int64_t>(p.grid.batches) * p.grid.heads * p.total_rows;
    const int64_t row = static_cast<int64_t>(blockIdx.x) * kRowsPerBlock + threadIdx.x / 32;  // of [B, H, sum L_i]
    if (row >= all_rows) return;

    // Lane i holds the weight of split i: there are at most 32.
    const float own = lane < p.grid.splits ? p.partial_lse[lane * all_rows + row] : -INFINITY;
    float largest = own, sum;
    for (int step = 16; step > 0; step /= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, step));
    float weight = largest == -INFINITY ? 0.0f : expf(own - largest);
    sum = weight;
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    weight = sum == 0.0f ? 0.0f : weight / sum;

    float output[kPerLane] = {};
    for (int i = 0; i < p.grid.splits; ++i) {
        const float w = __shfl_sync(0xffffffffu, weight, i);
        const float* const part = p.partial_out + (i * all_rows + row) * kHeadDim;
        SKY4_UNROLL
        for (int c = 0; c < kPerLane; ++c) output[c] += w * part[32 * c + lane];
    }

    const int64_t joint_row = row % p.total_rows, batch_head = row / p.total_rows;
    T* const out = static_cast<T*>(p.out) + batch_head / p.grid.heads * p.out_batch + joint_row * p.out_row +
                   batch_head % p.grid.heads * p.out_head;
    SKY4_UNROLL
    for (int c = 0; c < kPerLane; ++c) out[32 * c + lane] = static_cast<T>(output[c]);
    if (lane == 0 && p.lse != nullptr) p.lse[row] = sum == 0.0f ? -INFINITY : largest + logf(sum);
}

}  // namespace

template <DType kType, int kHeadDim>
cudaError_t launch_combine(const DenseParams& params, cudaStream_t stream) {
    const int64_t rows = static_cast<int64_t>(params.grid.batches) * params.grid.heads * params.total_rows;
    const auto blocks = static_cast<unsigned>((rows + kRowsPerBlock - 1) / kRowsPerBlock);
    combine_splits<kType, kHeadDim><<<blocks, 32 * kRowsPerBlock, 0, stream>>>(params);
    return cudaGetLastError();
}

template cudaError_t launch_combine<DType::bfloat16, 64>(const DenseParams&, cudaStream_t);
template cudaError_t launch_combine<DType::bfloat16, 128>(const DenseParams&, cudaStream_t);
template cudaError_t launch_combine<DType::float16, 64>(const DenseParams&, cudaStream_t);
template cudaError_t launch_combine<DType::float16, 128>(const DenseParams&, cudaStream_t);

}  // namespace sky4::cuda::sm90
