// The forward pass: O = softmax(scale Q KT) V with an online softmax, one block per tile of query rows.
//
// K and V have one buffer each: the next K flies while this tile's softmax and P V run, V while Q KT runs. That leaves
// room for two blocks on an SM of sm_86 (100 KB), which hide what latency is left.
#pragma once

#include "tile_copy.h"

namespace sky4::cuda::sm80 {

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
constexpr bool kHopper = true;
#else
constexpr bool kHopper = false;
#endif

template <int kDim, bool kSparse>
struct ForwardShape {
    // Dense: two strips per warp, so that each fragment of K and V read from shared memory serves two products: with
    // one strip reading takes as long as multiplying. A cube has only one strip for each of the four warps.
    static constexpr int kStrips = kSparse ? 1 : 2;
    static constexpr int kRows = kWarps * kStrips * kStrip;
    // 128 x 64 scores beside 128 x 96 sums would not fit the registers.
    static constexpr int kKeys = !kSparse && kDim > 64 ? 32 : 64;
    // As many as leave each thread the registers that it needs: 168 of them at 3, where sm_90 would spill a few.
    static constexpr int kBlocksPerSm = (kSparse && !(kHopper && kDim > 64)) || kDim < 64 ? 3 : 2;
    // One strip's queries fit the registers; their shared memory then is V's, filled after they are read.
    static constexpr bool kQueriesInRegisters = kStrips == 1;
    static constexpr int kQueryBytes = kRows * kDim * 2, kKeyBytes = kKeys * kDim * 2;
    static constexpr int kShared = 2 * kKeyBytes + (kQueriesInRegisters ? 0 : kQueryBytes);
    static_assert(kShared <= 99 * 1024, "what a block of sm_86 can have");
    static_assert(!kQueriesInRegisters || kQueryBytes <= kKeyBytes, "the queries pass through V's buffer");
    static_assert(!kSparse || kKeys == kCube, "a cube is one tile");
};

// Running maximum (of unscaled scores) and sum of a strip's rows g and g + 8; the sum is this lane's share.
struct RowState {
    float high[2], sum[2];
};

template <int kTiles>
__device__ __forceinline__ void mask_columns(float (&scores)[kTiles][4], int columns) {
    const int left = columns - c_column(threadIdx.x % 32, 0);  // a constant column beside it costs no register
#pragma unroll
    for (int n = 0; n < kTiles; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i)
            if (n * 8 + (i & 1) >= left) scores[n][i] = -INFINITY;
}

// Over the four lanes that share a row.
__device__ __forceinline__ float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

__device__ __forceinline__ float quad_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

// scores become weights exp(scale (s - high)); state and sums are brought to the new maximum.
template <int kTiles, int kOutTiles>
__device__ __forceinline__ void online_softmax(float (&scores)[kTiles][4], float (&sums)[kOutTiles][4], RowState& state,
                                               float scale_log2) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        float high = state.high[half];
#pragma unroll
        for (int n = 0; n < kTiles; ++n) high = fmaxf(high, fmaxf(scores[n][2 * half], scores[n][2 * half + 1]));
        high = quad_max(high);
        const float shift = high == -INFINITY ? 0.0f : high * scale_log2;
        const float decay = exp2_fast(state.high[half] * scale_log2 - shift);
        float sum[2] = {0.0f, 0.0f};
#pragma unroll
        for (int n = 0; n < kTiles; ++n)
#pragma unroll
            for (int i = 2 * half; i < 2 * half + 2; ++i) {
                scores[n][i] = exp2_fast(fmaf(scores[n][i], scale_log2, -shift));
                sum[i & 1] += scores[n][i];
            }
#pragma unroll
        for (int n = 0; n < kOutTiles; ++n) {
            sums[n][2 * half] *= decay;
            sums[n][2 * half + 1] *= decay;
        }
        state.high[half] = high;
        state.sum[half] = fmaf(state.sum[half], decay, sum[0] + sum[1]);
    }
}

// One strip of a split's float32 partials; `out` is the tile's first row.
template <int kDim>
__device__ __forceinline__ void store_partial(const float (&sums)[kDim / 8][4], const float (&factor)[2], int first_row,
                                              float* out, int rows) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int row = first_row + c_row(lane, 2 * half);
        if (row >= rows) continue;
        float* to = out + static_cast<int64_t>(row) * kDim + c_column(lane, 0);
#pragma unroll
        for (int n = 0; n < kDim / 8; ++n)
            *reinterpret_cast<float2*>(to + n * 8) =
                float2{sums[n][2 * half] * factor[half], sums[n][2 * half + 1] * factor[half]};
    }
}

// Normalises what a block has summed up and writes it, or its split's part of it.
template <typename T, int kDim, bool kSparse, int kStrips>
__device__ __forceinline__ void finish(const AttentionParams& p, const Sums<kStrips, kDim>& sums,
                                       const RowState (&state)[kStrips], const SharedTile<kDim>& stage) {
    const BlockPlaceInGrid place = place_in_grid(p, block_index());
    Tile rows = own_tile<kSparse, ForwardShape<kDim, kSparse>::kRows>(p.queries, place.tile);
    rows.row += static_cast<int>(p.queries.first[rows.segment]);  // in the concatenation
    const int64_t stat = stat_index(p, place.batch, place.head, rows.row);
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int s = 0; s < kStrips; ++s) {
        const int first_row = (threadIdx.x / 32 * kStrips + s) * kStrip;
        float factor[2], lse[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const float sum = quad_sum(state[s].sum[half]);
            factor[half] = sum == 0.0f ? 0.0f : 1.0f / sum;
            lse[half] = sum == 0.0f ? -INFINITY : fmaf(state[s].high[half], p.scale, logf(sum));
        }
        float* lse_out = p.lse;
        if (!kSparse && p.splits > 1) {
            const int64_t split = static_cast<int64_t>(p.batch) * p.heads * p.total_queries * place.split;
            store_partial<kDim>(sums[s], factor, first_row, p.partial_out + (split + stat) * kDim, rows.rows);
            lse_out = p.partial_lse + split;
        } else {
            store_strip<T, kDim>(sums[s], factor, rows.rows, stage, first_row, p.out, place.batch, place.head, rows);
        }
        if (lse_out == nullptr || lane % 4 != 0) continue;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = first_row + c_row(lane, 2 * half);
            if (row < rows.rows) lse_out[stat + row] = lse[half];
        }
    }
}

template <typename T, int kDim, bool kSparse>
__global__ void __launch_bounds__(kThreads, ForwardShape<kDim, kSparse>::kBlocksPerSm)
    attention_forward(const __grid_constant__ AttentionParams p) {
    using Shape = ForwardShape<kDim, kSparse>;
    constexpr int kStrips = Shape::kStrips;
    const BlockPlaceInGrid place = place_in_grid(p, block_index());
    const int batch = place.batch, head = place.head;
    const Tile query = own_tile<kSparse, Shape::kRows>(p.queries, place.tile);
    if (query.rows == 0) return;

    const uint32_t* selected = nullptr;
    if (kSparse)
        selected = p.selected + (static_cast<int64_t>(batch * p.heads + head) * p.tiles + place.tile) * p.words;
    Walk<kSparse, Shape::kKeys> walk(p.keys, batch, selected, p.words);
    if (!kSparse && p.splits > 1) walk.restrict_to_split(p.splits, place.split);

    const SharedAddress k_shared = dynamic_shared(), v_shared = k_shared + Shape::kKeyBytes;
    const SharedAddress q_shared = Shape::kQueriesInRegisters ? v_shared : v_shared + Shape::kKeyBytes;
    const SharedTile<kDim> k_tile(k_shared), v_tile(v_shared), q_tile(q_shared);
    const int first_row = threadIdx.x / 32 * (kStrips * kStrip);  // this warp's, in the tile

    copy_tile_async<kDim, Shape::kRows>(q_shared, p.q[query.segment], batch, head, query);
    Tile key = walk.next();
    if (key.rows > 0) copy_tile_async<kDim, Shape::kKeys>(k_shared, p.k[key.segment], batch, head, key);

    Sums<kStrips, kDim> out;
    RowState state[kStrips];
    clear(out);
#pragma unroll
    for (int s = 0; s < kStrips; ++s) state[s] = {{-INFINITY, -INFINITY}, {0.0f, 0.0f}};
    const float scale_log2 = p.scale * 1.44269504f;

    const auto attend = [&](const auto& queries) {
        while (key.rows > 0) {
            const Tile next = walk.next();
            copy_async_wait();
            __syncthreads();  // K is here, and everyone is done with the V before
            copy_tile_async<kDim, Shape::kKeys>(v_shared, p.v[key.segment], batch, head, key);

            Sums<kStrips, Shape::kKeys> scores;
            clear(scores);
            add_scores<T>(scores, queries, k_tile);

            copy_async_wait();
            __syncthreads();  // V is here, and everyone is done with K
            if (next.rows > 0) copy_tile_async<kDim, Shape::kKeys>(k_shared, p.k[next.segment], batch, head, next);

#pragma unroll
            for (int s = 0; s < kStrips; ++s) {
                if (key.rows < Shape::kKeys) mask_columns(scores[s], key.rows);
                online_softmax(scores[s], out[s], state[s], scale_log2);
            }
            add_weighted<T, kDim>(out, scores, v_tile);
            key = next;
        }
    };
    const RowsInShared<kDim> queries{q_tile, first_row};
    if constexpr (Shape::kQueriesInRegisters) {
        copy_async_wait();
        __syncthreads();
        attend(RowsInRegisters<kStrips, kDim>(queries));
    } else {
        attend(queries);
        copy_async_wait();  // the queries, where no key came
    }
    __syncthreads();  // everyone is done with the tiles: the output goes through the queries'

    finish<T, kDim, kSparse, kStrips>(p, out, state, q_tile);
}

}  // namespace sky4::cuda::sm80
