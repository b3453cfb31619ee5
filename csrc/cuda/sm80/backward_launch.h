// The launchers of the backward pass for one head dim.
#pragma once

#include "backward_keys.h"
#include "backward_queries.h"
#include "launch.h"

namespace sky4::cuda::sm80 {

template <int kDim>
void backward_keys(const AttentionParams& params, const Launch& launch) {
    using Shape = BackwardKeysShape<kDim>;
    const bool half = launch.dtype == DType::float16;
    AttentionParams p = params;
    p.splits = 1;
    p.tiles = lay_tiles(p.keys, launch.sparse, Shape::kRows);
    const auto kernel =
        launch.sparse
            ? (half ? attention_backward_keys<Fp16, kDim, true> : attention_backward_keys<Bf16, kDim, true>)
            : (half ? attention_backward_keys<Fp16, kDim, false> : attention_backward_keys<Bf16, kDim, false>);
    run_tiles(kernel, p, Shape::kShared, launch);
}

template <int kDim>
void backward_queries(const AttentionParams& params, const Launch& launch) {
    using Shape = BackwardQueriesShape<kDim>;
    const bool half = launch.dtype == DType::float16;
    AttentionParams p = params;
    p.splits = 1;
    p.tiles = lay_tiles(p.queries, launch.sparse, Shape::kRows);
    const auto kernel =
        launch.sparse
            ? (half ? attention_backward_queries<Fp16, kDim, true> : attention_backward_queries<Bf16, kDim, true>)
            : (half ? attention_backward_queries<Fp16, kDim, false> : attention_backward_queries<Bf16, kDim, false>);
    run_tiles(kernel, p, Shape::kShared, launch);
}

}  // namespace sky4::cuda::sm80
