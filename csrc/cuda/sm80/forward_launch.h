// The launcher of the forward pass for one head dim.
#pragma once

#include "forward.h"
#include "launch.h"

namespace sky4::cuda::sm80 {

template <int kDim>
void forward(const AttentionParams& params, const Launch& launch) {
    const bool half = launch.dtype == DType::float16;
    AttentionParams p = params;
    p.splits = 1;
    if (launch.sparse) {
        p.tiles = p.queries.cubes;
        run_tiles(half ? attention_forward<Fp16, kDim, true> : attention_forward<Bf16, kDim, true>, p,
                  ForwardShape<kDim, true>::kShared, launch);
        return;
    }
    using Shape = ForwardShape<kDim, false>;
    p.tiles = lay_tiles(p.queries, false, Shape::kRows);
    int key_tiles = 0;
    for (int s = 0; s < p.keys.count; ++s) key_tiles += tiles_of(p.keys.length[s], Shape::kKeys);
    const int64_t slots = static_cast<int64_t>(multiprocessors(launch.kernel, launch.device)) * Shape::kBlocksPerSm;
    p.splits = choose_splits(static_cast<int64_t>(p.tiles) * p.heads * p.batch, key_tiles, slots);
    const size_t partials =
        p.splits > 1 ? sizeof(float) * p.splits * p.batch * p.heads * static_cast<size_t>(p.total_queries) : 0;
    const Temporary partial_out(launch.kernel, launch.device, partials * kDim, launch.stream);
    const Temporary partial_lse(launch.kernel, launch.device, partials, launch.stream);
    p.partial_out = partial_out.as<float>();
    p.partial_lse = partial_lse.as<float>();
    run_tiles(half ? attention_forward<Fp16, kDim, false> : attention_forward<Bf16, kDim, false>, p, Shape::kShared,
              launch);
    if (p.splits > 1) combine(p, launch);
}

}  // namespace sky4::cuda::sm80
