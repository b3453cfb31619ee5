// The fine stage of Video Sparse Attention: parameters and launch. Two kernels compute the same: sparse_single_kernel.h
// (a block per query cube) and sparse_triple_kernel.h (a block per three neighbouring query cubes).
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include "../../tensor.h"
#include "selection.h"

namespace sky4::cuda::sm90 {

struct SparseParams {
    CUtensorMap queries, keys, values, text_keys, text_values;  // boxes of 64 rows; the text's unset without text
    const int32_t* query_starts;                                // [query_cubes + 1]
    const int32_t* key_starts;                                  // [key_cubes + 1]
    const int32_t* selected;                                    // [B, H, query_cubes, ceil(key_cubes / 32)]
    const int32_t* text_lengths;                                // [B] or nullptr: all
    void* out;                                                  // [B, N, H, d]
    int64_t out_batch, out_row, out_head;                       // strides in elements
    float* lse;                                                 // [B, H, N] or nullptr
    int query_cubes, key_cubes, query_tokens, text_tokens, heads, batches;
    float scale;
};

template <DType kType, int kHeadDim>
cudaError_t launch_sparse_single(const SparseParams& params, cudaStream_t stream);

template <DType kType, int kHeadDim>
cudaError_t launch_sparse_triple(const SparseParams& params, cudaStream_t stream);

}  // namespace sky4::cuda::sm90
