// Fine stage, one query cube and one warpgroup per block, three blocks per multiprocessor: the other two hide what one
// waits for. There is no producer; thread 0 issues the copies between the products.
//
// One buffer for K, two for V. While step j's softmax runs, K of step j + 1 and V of step j arrive, and P V of step
// j - 1 is still in flight.
#pragma once

#include "sparse_common.h"

namespace sky4::cuda::sm90 {

template <DType kType, int kHeadDim>
struct SparseSingle {
    using T = typename Element<kType>::type;
    static constexpr int kTileElements = kCube * kHeadDim;
    static constexpr int kTileBytes = kTileElements * sizeof(T);
    static constexpr int kBlocksPerProcessor = 3;
    static constexpr int kValueSlots = 2;

    struct Shared {
        alignas(1024) T queries[kTileElements];
        alignas(1024) T keys[kTileElements];
        alignas(1024) T values[kValueSlots][kTileElements];
        Barrier query_full, key_full, value_full[kValueSlots];
    };
    // 1 KB of every block's shared memory is the system's, and 228 KB are there.
    static_assert((sizeof(Shared) + 1024) * kBlocksPerProcessor <= 228 * 1024);

    __device__ static void load(const CUtensorMap& map, Barrier& full, T* tile, int row, int head, int batch,
                                cute::TMA::CacheHintSm90 hint = cute::TMA::CacheHintSm90::EVICT_LAST) {
        full.arrive_and_expect_tx(kTileBytes);
        load_tile(map, full, tile, row, head, batch, hint);
    }

    __device__ static void run(const SparseParams& p, Shared& shared) {
        using namespace cute;
        const int cube = blockIdx.x, head = blockIdx.y, batch = blockIdx.z;
        const int first_row = p.query_starts[cube], rows = p.query_starts[cube + 1] - first_row;

        typename ScoresMma<T, kCube>::type scores_mma;
        typename OutputMma<T, kHeadDim>::type output_mma;
        const auto thread_scores = scores_mma.get_slice(0);
        const auto thread_output = output_mma.get_slice(0);
        const Tensor q = thread_scores.partition_fragment_A(
            make_tensor(make_smem_ptr(shared.queries), TokenMajor<T, kCube, kHeadDim>{}));
        const Tensor k = thread_scores.partition_fragment_B(
            make_tensor(make_smem_ptr(shared.keys), TokenMajor<T, kCube, kHeadDim>{}));
        const Tensor v = thread_output.partition_fragment_B(
            make_tensor(make_smem_ptr(shared.values[0]), ChannelMajor<T, kCube, kHeadDim, kValueSlots>{}));
        Tensor probabilities = make_tensor<T>(ProbabilityLayout<T, kCube>{});
        Tensor output = partition_fragment_C(output_mma, Shape<_64, Int<kHeadDim>>{});
        clear(output);
        RunningSoftmax softmax{p.scale * kLog2E, {-INFINITY, -INFINITY}, {0.0f, 0.0f}};

        // Every thread walks, which costs less than handing the sizes round.
        SelectionWalk<1> walk = selection_walk<1>(p, cube, 1, head, batch);
        KeyBlock block = walk.next();
        if (rows > 0 && block.size > 0) {
            const bool copies = threadIdx.x == 0;
            RingPosition<1> key_at;
            RingPosition<kValueSlots> value_load, value_at;
            if (copies) {
                load(p.queries, shared.query_full, shared.queries, first_row, head, batch,
                     cute::TMA::CacheHintSm90::EVICT_FIRST);
                load(block.text ? p.text_keys : p.keys, shared.key_full, shared.keys, block.row, head, batch);
            }
            // Once all warps have done with K and with the V before the last: K of the next block and V of this one.
            const auto load_ahead = [&](const KeyBlock& here, const KeyBlock& next) {
                __syncthreads();
                if (copies) {
                    load(here.text ? p.text_values : p.values, shared.value_full[value_load.slot],
                         shared.values[value_load.slot], here.row, head, batch);
                    if (next.size > 0)
                        load(next.text ? p.text_keys : p.keys, shared.key_full, shared.keys, next.row, head, batch);
                }
                value_load.advance();
            };

            KeyBlock next = walk.next();
            shared.query_full.wait(0);
            {
                Tensor scores = partition_fragment_C(scores_mma, Shape<_64, Int<kCube>>{});
                shared.key_full.wait(key_at.phase);
                key_at.advance();
                issue<Accumulate::no>(scores_mma, q(_, _, _, 0), k(_, _, _, 0), scores);
                finish<0>(scores);
                load_ahead(block, next);
                mask_columns(scores, block.size);
                softmax.start(scores);
                round_scores<T>(scores, probabilities);
            }
            while (next.size > 0) {
                block = next;
                next = walk.next();
                Tensor scores = partition_fragment_C(scores_mma, Shape<_64, Int<kCube>>{});
                float shrink[2];
                shared.key_full.wait(key_at.phase);
                key_at.advance();
                issue<Accumulate::no>(scores_mma, q(_, _, _, 0), k(_, _, _, 0), scores);
                shared.value_full[value_at.slot].wait(value_at.phase);
                issue<Accumulate::yes>(output_mma, probabilities, v(_, _, _, value_at.slot), output);
                value_at.advance();
                finish<1>(scores);
                load_ahead(block, next);
                if (block.size < kCube) mask_columns(scores, block.size);
                softmax.update(scores, shrink);
                softmax.hold();
                finish<0>(output);
                round_scores<T>(scores, probabilities);
                rescale(output, shrink);
            }
            shared.value_full[value_at.slot].wait(value_at.phase);
            issue<Accumulate::yes>(output_mma, probabilities, v(_, _, _, value_at.slot), output);
            finish<0>(output);
        }
        store_cube<T>(p, first_row, rows, head, batch, output, softmax);
    }
};

template <DType kType, int kHeadDim>
__global__ void __launch_bounds__(kWarpgroup, 3) sparse_single(const __grid_constant__ SparseParams params) {
    using Kernel = SparseSingle<kType, kHeadDim>;
    static_assert(Kernel::kBlocksPerProcessor == 3);
    extern __shared__ __align__(1024) unsigned char memory[];
    auto& shared = *reinterpret_cast<typename Kernel::Shared*>(memory);
    if (threadIdx.x == 0) {
        shared.query_full.init(1);
        shared.key_full.init(1);
        for (int i = 0; i < Kernel::kValueSlots; ++i) shared.value_full[i].init(1);
        publish_barriers();
    }
    __syncthreads();
    Kernel::run(params, shared);
}

template <DType kType, int kHeadDim>
cudaError_t launch_sparse_single(const SparseParams& params, cudaStream_t stream) {
    using Kernel = SparseSingle<kType, kHeadDim>;
    constexpr int kBytes = sizeof(typename Kernel::Shared);
    const auto kernel = sparse_single<kType, kHeadDim>;
    if (const cudaError_t status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes))
        return status;
    const dim3 grid(params.query_cubes, params.heads, params.batches);
    kernel<<<grid, kWarpgroup, kBytes, stream>>>(params);
    return cudaGetLastError();
}

}  // namespace sky4::cuda::sm90
