// O = softmax(scale Q KT) V, dense, on sm_90a.
//
// A block has one producer warpgroup, of which one thread drives the copy engine, and two consumer warpgroups with 64
// query rows each. Key tiles of N rows pass through two rings, one for K and one for V. A consumer keeps its products
// in flight across tiles (S of tile j is issued before P V of tile j - 1), and the two take turns at issuing, so that
// the tensor cores have work while a softmax runs. Blocks are persistent: the rings run on across units of work.
//
// N keys per tile, d channels per head, S scores [64, N], P probabilities [64, N], O outputs [64, d].
#pragma once

#include <cutlass/arch/reg_reconfig.h>

#include "barriers.h"
#include "dense.h"
#include "matmul.h"
#include "softmax.h"
#include "store.h"
#include "tiles.h"

namespace sky4::cuda::sm90 {

template <DType kType, int kHeadDim, int kKeyTile>
struct Dense {
    using T = typename Element<kType>::type;

    static constexpr int kConsumers = 2;
    static constexpr int kThreads = (1 + kConsumers) * kWarpgroup;
    static constexpr int kSlots = 2;  // per ring; a third would not fit beside 176 x 128
    static constexpr int kQueryElements = 64 * kHeadDim, kKeyElements = kKeyTile * kHeadDim;
    // 168 registers per thread at launch (65,536 / 384, in eights); the producer gives up what the consumers take:
    // 128 x 24 + 256 x 240 = 384 x 168.
    static constexpr int kProducerRegisters = 24, kConsumerRegisters = 240;

    struct Shared {
        alignas(1024) T queries[kConsumers][kQueryElements];
        alignas(1024) T keys[kSlots][kKeyElements];
        alignas(1024) T values[kSlots][kKeyElements];
        RingBarriers<1> query;
        RingBarriers<kSlots> key, value;
    };
    static_assert(sizeof(Shared) <= 232448, "more shared memory than a block can have on sm_90");
    static_assert(kKeyElements * sizeof(T) % 1024 == 0, "a slot must begin at a multiple of the swizzle's period");

    __device__ static KeyTiles<kKeyTile> key_tiles(const DenseParams& p, int batch) {
        int length[kMaxSegments];
        CUTE_UNROLL
        for (int s = 0; s < kMaxSegments; ++s) {
            length[s] = p.key_rows[s];
            if (p.lengths[s] != nullptr) length[s] = max(0, min(length[s], p.lengths[s][batch]));
        }
        return KeyTiles<kKeyTile>(length);
    }

    // One thread: every tile that the consumers will ask for, in their order.
    __device__ static void produce(const DenseParams& p, Shared& shared) {
        RingPosition<1> query_at;
        RingPosition<kSlots> at;
        const int items = static_cast<int>(p.grid.items());
        for (int item = blockIdx.x; item < items; item += gridDim.x) {
            const WorkItem work = p.grid.at<kQueryTile>(item);
            const KeyTiles<kKeyTile> tiles = key_tiles(p, work.batch);
            const TileRange range = split_range(tiles.total, work.split, p.grid.splits);
            if (range.begin == range.end) continue;

            shared.query.empty[0].wait(query_at.phase ^ 1);
            shared.query.full[0].arrive_and_expect_tx(sizeof(shared.queries));
            for (int group = 0; group < kConsumers; ++group)
                load_tile(p.queries[work.segment], shared.query.full[0], shared.queries[group], work.row + 64 * group,
                          work.head, work.batch, cute::TMA::CacheHintSm90::EVICT_FIRST);
            query_at.advance();

            for (int j = range.begin; j < range.end; ++j, at.advance()) {
                const KeyTile tile = tiles.at(j);
                shared.key.empty[at.slot].wait(at.phase ^ 1);
                shared.key.full[at.slot].arrive_and_expect_tx(sizeof(shared.keys[0]));
                load_tile(p.keys[tile.segment], shared.key.full[at.slot], shared.keys[at.slot], tile.row, work.head,
                          work.batch, cute::TMA::CacheHintSm90::EVICT_LAST);
                shared.value.empty[at.slot].wait(at.phase ^ 1);
                shared.value.full[at.slot].arrive_and_expect_tx(sizeof(shared.values[0]));
                load_tile(p.values[tile.segment], shared.value.full[at.slot], shared.values[at.slot], tile.row,
                          work.head, work.batch, cute::TMA::CacheHintSm90::EVICT_LAST);
            }
        }
    }

    __device__ static void consume(const DenseParams& p, Shared& shared, int group) {
        using namespace cute;
        typename ScoresMma<T, kKeyTile>::type scores_mma;
        typename OutputMma<T, kHeadDim>::type output_mma;
        // Descriptors of the operands in shared memory: [wgmma, 1, steps of 16, slots], the same for every thread.
        const auto thread_scores = scores_mma.get_slice(0);
        const auto thread_output = output_mma.get_slice(0);
        const Tensor q = thread_scores.partition_fragment_A(
            make_tensor(make_smem_ptr(shared.queries[group]), TokenMajor<T, 64, kHeadDim>{}));
        const Tensor k = thread_scores.partition_fragment_B(
            make_tensor(make_smem_ptr(shared.keys[0]), TokenMajor<T, kKeyTile, kHeadDim, kSlots>{}));
        const Tensor v = thread_output.partition_fragment_B(
            make_tensor(make_smem_ptr(shared.values[0]), ChannelMajor<T, kKeyTile, kHeadDim, kSlots>{}));
        Tensor probabilities = make_tensor<T>(ProbabilityLayout<T, kKeyTile>{});
        Tensor output = partition_fragment_C(output_mma, Shape<_64, Int<kHeadDim>>{});

        const Turns turns(group);
        RingPosition<1> query_at;
        RingPosition<kSlots> key_at, value_at;
        const int items = static_cast<int>(p.grid.items());
        for (int item = blockIdx.x; item < items; item += gridDim.x) {
            const WorkItem work = p.grid.at<kQueryTile>(item);
            const KeyTiles<kKeyTile> tiles = key_tiles(p, work.batch);
            const TileRange range = split_range(tiles.total, work.split, p.grid.splits);
            RunningSoftmax softmax{p.scale * kLog2E, {-INFINITY, -INFINITY}, {0.0f, 0.0f}};
            clear(output);

            if (range.begin < range.end) {
                shared.query.full[0].wait(query_at.phase);
                {
                    Tensor scores = partition_fragment_C(scores_mma, Shape<_64, Int<kKeyTile>>{});
                    shared.key.full[key_at.slot].wait(key_at.phase);
                    turns.wait();
                    issue<Accumulate::no>(scores_mma, q(_, _, _, 0), k(_, _, _, key_at.slot), scores);
                    finish<0>(scores);
                    turns.pass();
                    release(shared.key.empty[key_at.slot]);
                    key_at.advance();
                    mask_columns(scores, tiles.at(range.begin).valid);
                    softmax.start(scores);
                    round_scores<T>(scores, probabilities);
                }

                // S of this tile beside O += P V of the one before.
                const auto step = [&](auto masked, int valid) {
                    Tensor scores = partition_fragment_C(scores_mma, Shape<_64, Int<kKeyTile>>{});
                    float shrink[2];
                    shared.key.full[key_at.slot].wait(key_at.phase);
                    turns.wait();
                    issue<Accumulate::no>(scores_mma, q(_, _, _, 0), k(_, _, _, key_at.slot), scores);
                    shared.value.full[value_at.slot].wait(value_at.phase);
                    issue<Accumulate::yes>(output_mma, probabilities, v(_, _, _, value_at.slot), output);
                    turns.pass();
                    finish<1>(scores);
                    release(shared.key.empty[key_at.slot]);
                    key_at.advance();
                    if constexpr (decltype(masked)::value) mask_columns(scores, valid);
                    softmax.update(scores, shrink);
                    softmax.hold();
                    finish<0>(output);
                    release(shared.value.empty[value_at.slot]);
                    value_at.advance();
                    round_scores<T>(scores, probabilities);
                    rescale(output, shrink);
                };
                int j = range.begin + 1;
                for (; j < range.end && j < tiles.partial; ++j) step(true_type{}, tiles.at(j).valid);
                for (; j < range.end; ++j) step(false_type{}, kKeyTile);

                release(shared.query.empty[0]);
                query_at.advance();
                shared.value.full[value_at.slot].wait(value_at.phase);
                issue<Accumulate::yes>(output_mma, probabilities, v(_, _, _, value_at.slot), output);
                finish<0>(output);
                release(shared.value.empty[value_at.slot]);
                value_at.advance();
            }
            store(p, work, group, output, softmax);
        }
    }

    // O / sum and the log-sum-exp; zero and -inf where no key counts.
    template <class Output>
    __device__ static void store(const DenseParams& p, const WorkItem& work, int group, const Output& output,
                                 const RunningSoftmax& softmax) {
        const int thread = threadIdx.x % kWarpgroup;
        const int64_t head_rows = (static_cast<int64_t>(work.split) * p.grid.batches + work.batch) * p.grid.heads +
                                  work.head;  // of the [splits, B, H, sum L_i] results
        const bool partial = p.grid.splits > 1;
        float* const lse = partial ? p.partial_lse : p.lse;
        float factor[2];
        T* out_row[2];
        float* partial_row[2];
        CUTE_UNROLL
        for (int r = 0; r < 2; ++r) {
            const float sum = softmax.total(r);
            factor[r] = sum == 0.0f ? 0.0f : __fdividef(1.0f, sum);
            const int row = work.row + 64 * group + thread / 32 * 16 + thread % 32 / 4 + 8 * r;
            const bool exists = row < p.query_rows[work.segment];
            const int64_t joint_row = p.query_offset[work.segment] + row;
            const int64_t result = head_rows * p.total_rows + joint_row;
            out_row[r] = exists ? static_cast<T*>(p.out) + work.batch * p.out_batch + joint_row * p.out_row +
                                      work.head * p.out_head
                                : nullptr;
            partial_row[r] = exists ? p.partial_out + result * kHeadDim : nullptr;
            if (exists && lse != nullptr && thread % 4 == 0)
                lse[result] = sum == 0.0f ? -INFINITY : softmax.log_sum_exp(r, sum);
        }
        if (partial)
            store_rows(output, factor, partial_row);
        else
            store_rows(output, factor, out_row);
    }
};

template <DType kType, int kHeadDim, int kKeyTile>
__global__ void __launch_bounds__(384, 1) dense_forward(const __grid_constant__ DenseParams params) {
    using Kernel = Dense<kType, kHeadDim, kKeyTile>;
    static_assert(Kernel::kThreads == 384);
    extern __shared__ __align__(1024) unsigned char memory[];
    auto& shared = *reinterpret_cast<typename Kernel::Shared*>(memory);

    if (threadIdx.x == 0) {
        constexpr int kConsumerWarps = Kernel::kConsumers * kWarpgroup / 32;
        shared.query.init(kConsumerWarps);
        shared.key.init(kConsumerWarps);
        shared.value.init(kConsumerWarps);
        publish_barriers();
    }
    __syncthreads();

    const int warpgroup = cutlass::canonical_warp_group_idx();
    if (warpgroup == 0) {
        cutlass::arch::warpgroup_reg_dealloc<Kernel::kProducerRegisters>();
        if (threadIdx.x == 0) Kernel::produce(params, shared);
    } else {
        cutlass::arch::warpgroup_reg_alloc<Kernel::kConsumerRegisters>();
        Kernel::consume(params, shared, warpgroup - 1);
    }
}

template <DType kType, int kHeadDim, int kKeyTile>
cudaError_t launch_dense(const DenseParams& params, int blocks, cudaStream_t stream) {
    using Kernel = Dense<kType, kHeadDim, kKeyTile>;
    constexpr int kBytes = sizeof(typename Kernel::Shared);
    const auto kernel = dense_forward<kType, kHeadDim, kKeyTile>;
    if (const cudaError_t status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes))
        return status;
    kernel<<<blocks, Kernel::kThreads, kBytes, stream>>>(params);
    return cudaGetLastError();
}

}  // namespace sky4::cuda::sm90
