// Fine stage, three neighbouring query cubes per block: neighbours select much the same keys, and what two of them
// share is loaded once.
//
// A producer thread walks the union of the three selections and fills a ring of five slots, K and V of one key cube
// each; three consumer warpgroups, one per query cube, take from it what their cube selects and pass over the rest. A
// note beside each slot says how many keys it holds and whose they are, so that consumers read no global memory.
#pragma once

#include <cutlass/arch/reg_reconfig.h>

#include "sparse_common.h"

namespace sky4::cuda::sm90 {

template <DType kType, int kHeadDim>
struct SparseTriple {
    using T = typename Element<kType>::type;
    static constexpr int kThreads = (1 + kCubesPerBlock) * kWarpgroup;
    static constexpr int kTileElements = kCube * kHeadDim;
    static constexpr int kTileBytes = kTileElements * sizeof(T);
    // 128 registers per thread at launch (65,536 / 512): 128 x 32 + 384 x 160 = 512 x 128.
    static constexpr int kProducerRegisters = 32, kConsumerRegisters = 160;

    struct Shared {
        alignas(1024) T queries[kCubesPerBlock][kTileElements];
        alignas(1024) T keys[kTripleSlots][kTileElements];
        alignas(1024) T values[kTripleSlots][kTileElements];
        BlockNote note[kTripleSlots];
        RingBarriers<kTripleSlots> ring;
        Barrier query_full;
    };
    static_assert(sizeof(Shared) <= 232448, "more shared memory than a block can have on sm_90");

    // One thread.
    __device__ static void produce(const SparseParams& p, Shared& shared, int cube, int present, int head, int batch) {
        SelectionWalk<kCubesPerBlock> walk = selection_walk<kCubesPerBlock>(p, cube, present, head, batch);
        RingPosition<kTripleSlots> at;
        KeyBlock block = walk.next();
        if (block.size > 0) {
            shared.query_full.arrive_and_expect_tx(present * kTileBytes);
            for (int i = 0; i < present; ++i)
                load_tile(p.queries, shared.query_full, shared.queries[i], p.query_starts[cube + i], head, batch,
                          cute::TMA::CacheHintSm90::EVICT_FIRST);
        }
        for (; block.size > 0; block = walk.next(), at.advance()) {
            shared.ring.empty[at.slot].wait(at.phase ^ 1);
            shared.note[at.slot] = BlockNote(block);
            shared.ring.full[at.slot].arrive_and_expect_tx(2 * kTileBytes);
            load_tile(block.text ? p.text_keys : p.keys, shared.ring.full[at.slot], shared.keys[at.slot], block.row,
                      head, batch, cute::TMA::CacheHintSm90::EVICT_LAST);
            load_tile(block.text ? p.text_values : p.values, shared.ring.full[at.slot], shared.values[at.slot],
                      block.row, head, batch, cute::TMA::CacheHintSm90::EVICT_LAST);
        }
        shared.ring.empty[at.slot].wait(at.phase ^ 1);
        shared.note[at.slot] = BlockNote();
        shared.ring.full[at.slot].arrive();
    }

    // Waits for the next slot that `group` owns, releasing those it passes over; goes no further than `reach` slots and
    // never past the end. Returns the keys in it, 0 where there is none.
    __device__ static int seek(Shared& shared, RingPosition<kTripleSlots>& at, int group, int reach) {
        for (int i = 0; i < reach; ++i) {
            shared.ring.full[at.slot].wait(at.phase);
            const BlockNote note = shared.note[at.slot];
            if (note.is_end()) return 0;
            if (note.owned_by(group)) return note.size();
            __syncwarp();  // all lanes have read the note
            release(shared.ring.empty[at.slot]);
            at.advance();
        }
        return 0;
    }

    __device__ static void consume(const SparseParams& p, Shared& shared, int cube, int group, int head, int batch) {
        using namespace cute;
        typename ScoresMma<T, kCube>::type scores_mma;
        typename OutputMma<T, kHeadDim>::type output_mma;
        const auto thread_scores = scores_mma.get_slice(0);
        const auto thread_output = output_mma.get_slice(0);
        const Tensor q = thread_scores.partition_fragment_A(
            make_tensor(make_smem_ptr(shared.queries[group]), TokenMajor<T, kCube, kHeadDim>{}));
        const Tensor k = thread_scores.partition_fragment_B(
            make_tensor(make_smem_ptr(shared.keys[0]), TokenMajor<T, kCube, kHeadDim, kTripleSlots>{}));
        const Tensor v = thread_output.partition_fragment_B(
            make_tensor(make_smem_ptr(shared.values[0]), ChannelMajor<T, kCube, kHeadDim, kTripleSlots>{}));
        Tensor probabilities = make_tensor<T>(ProbabilityLayout<T, kCube>{});
        Tensor output = partition_fragment_C(output_mma, Shape<_64, Int<kHeadDim>>{});
        clear(output);
        RunningSoftmax softmax{p.scale * kLog2E, {-INFINITY, -INFINITY}, {0.0f, 0.0f}};
        RingPosition<kTripleSlots> at;

        // A run of owned slots, each at most reach - 1 slots after the one before: while the last one's V is held for
        // the next step, the producer can get no further than that. Between runs nothing is held.
        while (int size = seek(shared, at, group, kWithoutLimit)) {
            float shrink[2];
            shared.query_full.wait(0);
            {
                Tensor scores = partition_fragment_C(scores_mma, Shape<_64, Int<kCube>>{});
                issue<Accumulate::no>(scores_mma, q(_, _, _, 0), k(_, _, _, at.slot), scores);
                finish<0>(scores);
                mask_columns(scores, size);
                softmax.update(scores, shrink);
                round_scores<T>(scores, probabilities);
                rescale(output, shrink);
            }
            RingPosition<kTripleSlots> held = at;
            at.advance();
            while ((size = seek(shared, at, group, kTripleReach)) > 0) {
                Tensor scores = partition_fragment_C(scores_mma, Shape<_64, Int<kCube>>{});
                issue<Accumulate::no>(scores_mma, q(_, _, _, 0), k(_, _, _, at.slot), scores);
                issue<Accumulate::yes>(output_mma, probabilities, v(_, _, _, held.slot), output);
                finish<1>(scores);
                if (size < kCube) mask_columns(scores, size);
                softmax.update(scores, shrink);
                softmax.hold();
                finish<0>(output);
                release(shared.ring.empty[held.slot]);
                held = at;
                at.advance();
                round_scores<T>(scores, probabilities);
                rescale(output, shrink);
            }
            issue<Accumulate::yes>(output_mma, probabilities, v(_, _, _, held.slot), output);
            finish<0>(output);
            release(shared.ring.empty[held.slot]);
        }
        const int own_cube = cube + group;
        const bool exists = own_cube < p.query_cubes;
        const int first_row = exists ? p.query_starts[own_cube] : 0;
        const int rows = exists ? p.query_starts[own_cube + 1] - first_row : 0;
        store_cube<T>(p, first_row, rows, head, batch, output, softmax);
    }

private:
    static constexpr int kWithoutLimit = 0x7fffffff;
};

template <DType kType, int kHeadDim>
__global__ void __launch_bounds__(512, 1) sparse_triple(const __grid_constant__ SparseParams params) {
    using Kernel = SparseTriple<kType, kHeadDim>;
    static_assert(Kernel::kThreads == 512);
    extern __shared__ __align__(1024) unsigned char memory[];
    auto& shared = *reinterpret_cast<typename Kernel::Shared*>(memory);
    if (threadIdx.x == 0) {
        shared.query_full.init(1);
        shared.ring.init(kCubesPerBlock * kWarpgroup / 32);
        publish_barriers();
    }
    __syncthreads();

    const int cube = blockIdx.x * kCubesPerBlock, head = blockIdx.y, batch = blockIdx.z;
    const int warpgroup = cutlass::canonical_warp_group_idx();
    if (warpgroup == 0) {
        cutlass::arch::warpgroup_reg_dealloc<Kernel::kProducerRegisters>();
        const int present = min(kCubesPerBlock, params.query_cubes - cube);
        if (threadIdx.x == 0) Kernel::produce(params, shared, cube, present, head, batch);
    } else {
        cutlass::arch::warpgroup_reg_alloc<Kernel::kConsumerRegisters>();
        Kernel::consume(params, shared, cube, warpgroup - 1, head, batch);
    }
}

template <DType kType, int kHeadDim>
cudaError_t launch_sparse_triple(const SparseParams& params, cudaStream_t stream) {
    using Kernel = SparseTriple<kType, kHeadDim>;
    constexpr int kBytes = sizeof(typename Kernel::Shared);
    const auto kernel = sparse_triple<kType, kHeadDim>;
    if (const cudaError_t status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes))
        return status;
    const dim3 grid((params.query_cubes + kCubesPerBlock - 1) / kCubesPerBlock, params.heads, params.batches);
    kernel<<<grid, Kernel::kThreads, kBytes, stream>>>(params);
    return cudaGetLastError();
}

}  // namespace sky4::cuda::sm90
