// The gradients of queries, one block per tile of 64 queries, which walks the key tiles:
//   P = exp(scale Q KT - lse)   dS = P o (dO VT - delta)   dQ += scale dS K
//
// dS stays in the registers as left operand. No atomics: a block owns its rows.
#pragma once

#include "forward.h"

namespace sky4::cuda::sm80 {

template <int kDim>
struct BackwardQueriesShape {
    static constexpr int kRows = kWarps * kStrip;  // queries, one strip per warp
    // Keys per step: with 64 of 128 channels, Q, dO and two stages of K and V would fill an SM of sm_86 for one block.
    static constexpr int kKeys = kDim > 64 ? 32 : 64;
    static constexpr int kRowsBytes = kRows * kDim * 2, kKeyBytes = kKeys * kDim * 2;
    static constexpr int kStageBytes = 2 * kKeyBytes;  // K, V
    static constexpr int kShared = 2 * kRowsBytes + 2 * kStageBytes;
    static_assert(kShared <= 99 * 1024, "what a block of sm_86 can have");
};

// K and V of a key tile into one of two stages.
template <int kDim>
__device__ __forceinline__ void copy_keys_async(SharedAddress stage, const AttentionParams& p, int batch, int head,
                                                Tile key) {
    using Shape = BackwardQueriesShape<kDim>;
    copy_tile_async<kDim, Shape::kKeys>(stage, p.k[key.segment], batch, head, key);
    copy_tile_async<kDim, Shape::kKeys>(stage + Shape::kKeyBytes, p.v[key.segment], batch, head, key);
}

template <typename T, int kDim, bool kSparse>
__global__ void __launch_bounds__(kThreads, 3) attention_backward_queries(const __grid_constant__ AttentionParams p) {
    using Shape = BackwardQueriesShape<kDim>;
    constexpr int kTiles = Shape::kKeys / 8;
    const BlockPlaceInGrid place = place_in_grid(p, block_index());
    const int batch = place.batch, head = place.head;
    const Tile query = own_tile<kSparse, Shape::kRows>(p.queries, place.tile);
    if (query.rows == 0) return;

    const uint32_t* selected = nullptr;
    if (kSparse)
        selected = p.selected + (static_cast<int64_t>(batch * p.heads + head) * p.tiles + place.tile) * p.words;
    Walk<kSparse, Shape::kKeys> walk(p.keys, batch, selected, p.words);

    const SharedAddress q_shared = dynamic_shared(), grad_out_shared = q_shared + Shape::kRowsBytes;
    const SharedAddress stages = grad_out_shared + Shape::kRowsBytes;
    const int first_row = threadIdx.x / 32 * kStrip;
    const RowsInShared<kDim> queries{SharedTile<kDim>(q_shared), first_row};
    const RowsInShared<kDim> grad_out{SharedTile<kDim>(grad_out_shared), first_row};

    Tile joint = query;
    joint.row += static_cast<int>(p.queries.first[query.segment]);
    copy_tile_async<kDim, Shape::kRows>(q_shared, p.q[query.segment], batch, head, query);
    copy_tile_async<kDim, Shape::kRows>(grad_out_shared, p.grad_out, batch, head, joint);
    Tile key = walk.next();
    if (key.rows > 0) copy_keys_async<kDim>(stages, p, batch, head, key);

    float lse[2], delta[2];  // of this lane's rows
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int row = first_row + c_row(threadIdx.x % 32, 2 * half);
        float2 stat{INFINITY, 0.0f};  // no weight for rows past the tile
        if (row < query.rows) stat = p.stats[stat_index(p, batch, head, joint.row + row)];
        lse[half] = stat.x;
        delta[half] = stat.y;
    }

    Sums<1, kDim> grad_q;
    clear(grad_q);
    const float scale_log2 = p.scale * 1.44269504f;
    for (int stage = 0; key.rows > 0; stage ^= 1) {
        const SharedAddress here = stages + stage * Shape::kStageBytes;
        const int columns = key.rows;
        key = walk.next();
        copy_async_wait();
        __syncthreads();  // this stage is here, and everyone is done with the other
        if (key.rows > 0) copy_keys_async<kDim>(stages + (stage ^ 1) * Shape::kStageBytes, p, batch, head, key);
        const SharedTile<kDim> k_tile(here), v_tile(here + Shape::kKeyBytes);

        Sums<1, Shape::kKeys> weights, grad_scores;
        clear(weights);
        add_scores<T>(weights, queries, k_tile);
        if (columns < Shape::kKeys) mask_columns(weights[0], columns);
        clear(grad_scores);
        add_scores<T>(grad_scores, grad_out, v_tile);
#pragma unroll
        for (int n = 0; n < kTiles; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float weight = exp2_fast(fmaf(weights[0][n][i], scale_log2, -lse[i / 2]));
                grad_scores[0][n][i] = weight * (grad_scores[0][n][i] - delta[i / 2]);
            }
        add_weighted<T, kDim>(grad_q, grad_scores, k_tile);
    }
    copy_async_wait();  // the queries, where no key came
    __syncthreads();    // everyone is done with the tiles: the gradients go through the queries'

    const BlockPlaceInGrid again = place_in_grid(p, block_index());
    const Tile rows = own_tile<kSparse, Shape::kRows>(p.queries, again.tile);
    const float scale[2] = {p.scale, p.scale};
    store_strip<T, kDim>(grad_q[0], scale, rows.rows, queries.tile, first_row, p.grad_q[rows.segment], again.batch,
                         again.head, rows);
}

}  // namespace sky4::cuda::sm80
