// Dense joint attention: parameters and launch. The kernel itself is in dense_kernel.h, its instances in dense_*.cu.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include "../../tensor.h"
#include "schedule.h"

namespace sky4::cuda::sm90 {

constexpr int kQueryTile = 128;  // rows per block: 64 for each of two consumer warpgroups

struct DenseParams {
    CUtensorMap queries[kMaxSegments], keys[kMaxSegments], values[kMaxSegments];
    WorkGrid grid;
    int query_rows[kMaxSegments], key_rows[kMaxSegments];
    int query_offset[kMaxSegments];        // first row of the segment in `out`
    const int32_t* lengths[kMaxSegments];  // [B] keys that count, or nullptr: all
    void* out;                             // [B, sum L_i, H, d]
    int64_t out_batch, out_row, out_head;  // strides in elements
    float* lse;                            // [B, H, sum L_i] or nullptr
    float* partial_out;                    // grid.splits > 1: [splits, B, H, sum L_i, d], instead of `out`
    float* partial_lse;                    // ... and [splits, B, H, sum L_i], instead of `lse`
    int total_rows;                        // sum L_i
    float scale;
};

// `blocks`: at most one per multiprocessor. Returns the first failing runtime call's status.
template <DType kType, int kHeadDim, int kKeyTile>
cudaError_t launch_dense(const DenseParams& params, int blocks, cudaStream_t stream);

// out, lse = the splits' partial results, weighted by their sums.
template <DType kType, int kHeadDim>
cudaError_t launch_combine(const DenseParams& params, cudaStream_t stream);

}  // namespace sky4::cuda::sm90
