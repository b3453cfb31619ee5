// The gradients of keys and values, one block per tile of 64 keys, which walks the query tiles:
//   PT = exp(scale K QT - lse)   dV += PT dO   dST = PT o (V dOT - delta)   dK += scale dST Q
//
// A warp's rows are keys, so that PT and dST stay in its registers as left operands. No atomics: a block owns its rows.
#pragma once

#include "forward.h"

namespace sky4::cuda::sm80 {

template <int kDim>
struct BackwardKeysShape {
    static constexpr int kRows = kWarps * kStrip;  // keys, one strip per warp
    // Queries per step: beside two sums of 16 x kDim the registers hold two score tiles of 16 x kQueries.
    static constexpr int kQueries = kDim > 64 ? 32 : 64;
    static constexpr int kBlocksPerSm = kDim > 32 ? 2 : 3;  // 168 registers, at 3, are too few for larger sums
    static constexpr int kRowsBytes = kRows * kDim * 2, kQueryBytes = kQueries * kDim * 2, kStatBytes = kQueries * 8;
    static constexpr int kStageBytes = 2 * kQueryBytes + kStatBytes;  // Q, dO, stats
    static constexpr int kShared = 2 * kRowsBytes + 2 * kStageBytes;
    static_assert(kShared <= 99 * 1024, "what a block of sm_86 can have");
    static_assert(kQueries <= kThreads, "a thread copies one query's stats");
};

// Q, dO and the stats of a query tile, as they lie in one of two stages.
template <int kDim>
struct QueryStage {
    using Shape = BackwardKeysShape<kDim>;
    SharedAddress base;

    __device__ __forceinline__ SharedAddress grad_out() const { return base + Shape::kQueryBytes; }
    __device__ __forceinline__ SharedAddress stats() const { return base + 2 * Shape::kQueryBytes; }

    // Rows past the tile become zero in all three: their weights are 1, but what they multiply is zero.
    __device__ __forceinline__ void copy_async(const AttentionParams& p, int batch, int head, Tile query) const {
        copy_tile_async<kDim, Shape::kQueries>(base, p.q[query.segment], batch, head, query);
        Tile joint = query;
        joint.row += static_cast<int>(p.queries.first[query.segment]);
        copy_tile_async<kDim, Shape::kQueries>(grad_out(), p.grad_out, batch, head, joint);
        const int row = threadIdx.x;
        if (row < Shape::kQueries) {
            const bool there = row < query.rows;
            const float2* from = p.stats + stat_index(p, batch, head, joint.row + (there ? row : 0));
            copy_async_8(stats() + row * 8, from, there ? 8 : 0);
        }
    }
};

template <typename T, int kDim, bool kSparse>
__global__ void __launch_bounds__(kThreads, BackwardKeysShape<kDim>::kBlocksPerSm)
    attention_backward_keys(const __grid_constant__ AttentionParams p) {
    using Shape = BackwardKeysShape<kDim>;
    constexpr int kTiles = Shape::kQueries / 8;
    const BlockPlaceInGrid place = place_in_grid(p, block_index());
    const int batch = place.batch, head = place.head;
    Tile key = own_tile<kSparse, Shape::kRows>(p.keys, place.tile);
    if (key.rows == 0) return;
    if (!kSparse) {  // what is cut has zero gradients
        const int left = p.keys.counted(key.segment, batch) - key.row;
        key.rows = left < 0 ? 0 : left < key.rows ? left : key.rows;
    }

    const uint32_t* selected = nullptr;
    if (kSparse)
        selected = p.selected + (static_cast<int64_t>(batch * p.heads + head) * p.tiles + place.tile) * p.words;
    Walk<kSparse, Shape::kQueries> walk(p.queries, batch, selected, p.words);

    const SharedAddress k_shared = dynamic_shared(), v_shared = k_shared + Shape::kRowsBytes;
    const SharedAddress stages = v_shared + Shape::kRowsBytes;
    const int first_row = threadIdx.x / 32 * kStrip;
    const RowsInShared<kDim> keys{SharedTile<kDim>(k_shared), first_row}, values{SharedTile<kDim>(v_shared), first_row};

    Sums<1, kDim> grad_k, grad_v;
    clear(grad_k);
    clear(grad_v);
    const float scale_log2 = p.scale * 1.44269504f;

    Tile query = walk.next();
    if (key.rows > 0 && query.rows > 0) {
        copy_tile_async<kDim, Shape::kRows>(k_shared, p.k[key.segment], batch, head, key);
        copy_tile_async<kDim, Shape::kRows>(v_shared, p.v[key.segment], batch, head, key);
        QueryStage<kDim>{stages}.copy_async(p, batch, head, query);
    } else {
        query.rows = 0;
    }
    for (int stage = 0; query.rows > 0; stage ^= 1) {
        const QueryStage<kDim> here{stages + stage * Shape::kStageBytes};
        query = walk.next();
        copy_async_wait();
        __syncthreads();  // this stage is here, and everyone is done with the other
        if (query.rows > 0)
            QueryStage<kDim>{stages + (stage ^ 1) * Shape::kStageBytes}.copy_async(p, batch, head, query);
        const SharedTile<kDim> q_tile(here.base), grad_out_tile(here.grad_out());
        // (lse, delta) of this lane's two queries of n-tile n
        const SharedAddress stats = here.stats() + c_column(threadIdx.x % 32, 0) * 8;

        Sums<1, Shape::kQueries> weights;
        clear(weights);
        add_scores<T>(weights, keys, q_tile);
#pragma unroll
        for (int n = 0; n < kTiles; ++n) {
            const float4 stat = load_shared_float4(stats + n * 64);
#pragma unroll
            for (int i = 0; i < 4; ++i)
                weights[0][n][i] = exp2_fast(fmaf(weights[0][n][i], scale_log2, i & 1 ? -stat.z : -stat.x));
        }
        add_weighted<T, kDim>(grad_v, weights, grad_out_tile);

        Sums<1, Shape::kQueries> grad_scores;
        clear(grad_scores);
        add_scores<T>(grad_scores, values, grad_out_tile);
#pragma unroll
        for (int n = 0; n < kTiles; ++n) {
            const float4 stat = load_shared_float4(stats + n * 64);
#pragma unroll
            for (int i = 0; i < 4; ++i)
                grad_scores[0][n][i] = weights[0][n][i] * (grad_scores[0][n][i] - (i & 1 ? stat.w : stat.y));
        }
        add_weighted<T, kDim>(grad_k, grad_scores, q_tile);
    }
    __syncthreads();  // everyone is done with the tiles: the gradients go through those of K and V

    const BlockPlaceInGrid again = place_in_grid(p, block_index());
    const Tile rows = own_tile<kSparse, Shape::kRows>(p.keys, again.tile);
    const int counted = p.keys.counted(rows.segment, again.batch) - rows.row;
    const float scale[2] = {p.scale, p.scale}, one[2] = {1.0f, 1.0f};
    store_strip<T, kDim>(grad_k[0], scale, counted, keys.tile, first_row, p.grad_k[rows.segment], again.batch,
                         again.head, rows);
    store_strip<T, kDim>(grad_v[0], one, counted, values.tile, first_row, p.grad_v[rows.segment], again.batch,
                         again.head, rows);
}

}  // namespace sky4::cuda::sm80
