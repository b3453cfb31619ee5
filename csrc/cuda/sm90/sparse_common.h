// What both kernels of the fine stage share.
#pragma once

#include "matmul.h"
#include "softmax.h"
#include "sparse.h"
#include "store.h"
#include "tiles.h"

namespace sky4::cuda::sm90 {

__device__ __forceinline__ int text_length(const SparseParams& p, int batch) {
    return p.text_lengths == nullptr ? p.text_tokens : max(0, min(p.text_tokens, p.text_lengths[batch]));
}

// The walk over the selections of `present` query cubes from `cube` on.
template <int kRows>
__device__ __forceinline__ SelectionWalk<kRows> selection_walk(const SparseParams& p, int cube, int present, int head,
                                                               int batch) {
    const int64_t bit_row = (static_cast<int64_t>(batch) * p.heads + head) * p.query_cubes + cube;
    return SelectionWalk<kRows>(p.selected + bit_row * ((p.key_cubes + 31) / 32), p.key_starts, p.key_cubes, present,
                                text_length(p, batch));
}

// O / sum and the log-sum-exp of a query cube's rows; zero and -inf where nothing is selected. Rows past the cube were
// computed on its neighbour's queries and are dropped.
template <class T, class Output>
__device__ __forceinline__ void store_cube(const SparseParams& p, int first_row, int rows, int head, int batch,
                                           const Output& output, const RunningSoftmax& softmax) {
    const int thread = threadIdx.x % kWarpgroup;
    float factor[2];
    T* out_row[2];
    CUTE_UNROLL
    for (int r = 0; r < 2; ++r) {
        const float sum = softmax.total(r);
        factor[r] = sum == 0.0f ? 0.0f : __fdividef(1.0f, sum);
        const int row = thread / 32 * 16 + thread % 32 / 4 + 8 * r;
        const int64_t token = first_row + row;
        out_row[r] =
            row < rows ? static_cast<T*>(p.out) + batch * p.out_batch + token * p.out_row + head * p.out_head : nullptr;
        if (row < rows && p.lse != nullptr && thread % 4 == 0)
            p.lse[(static_cast<int64_t>(batch) * p.heads + head) * p.query_tokens + token] =
                sum == 0.0f ? -INFINITY : softmax.log_sum_exp(r, sum);
    }
    store_rows(output, factor, out_row);
}

}  // namespace sky4::cuda::sm90
