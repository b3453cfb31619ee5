// Buffers in shared memory that the copy engine fills and warpgroups empty.
#pragma once

#include <cutlass/arch/barrier.h>

#include "schedule.h"

namespace sky4::cuda::sm90 {

using Barrier = cutlass::arch::ClusterTransactionBarrier;

constexpr int kWarpgroup = 128;

// Makes initialised barriers visible to the copy engine; the block must meet (__syncthreads) after it.
__device__ __forceinline__ void publish_barriers() {
    cutlass::arch::fence_barrier_init();
    cutlass::arch::fence_view_async_shared();
}

// One arrival per warp: a warp that has waited for its own wgmma has stopped reading the buffer, and only its own.
__device__ __forceinline__ void release(Barrier& empty) {
    if (threadIdx.x % 32 == 0) empty.arrive();
}

template <int kSlots>
struct RingBarriers {
    Barrier full[kSlots], empty[kSlots];

    __device__ void init(int consumer_warps) {
        for (int i = 0; i < kSlots; ++i) {
            full[i].init(1);
            empty[i].init(consumer_warps);
        }
    }
};

// Two consumer warpgroups take turns at the tensor cores, so that one's softmax runs beside the other's products.
// Each turn of a barrier needs 256 arrivals: the 128 threads that wait and the 128 that pass the turn on.
struct Turns {
    int group;  // 0 or 1

    // Group 0 has the first turn: its own arrival stands for the pass that nobody has given it yet.
    __device__ explicit Turns(int own_group) : group(own_group) {
        if (group == 0) cutlass::arch::NamedBarrier::arrive(2 * kWarpgroup, kFirstBarrier);
    }

    __device__ void wait() const { cutlass::arch::NamedBarrier::sync(2 * kWarpgroup, kFirstBarrier + group); }
    __device__ void pass() const { cutlass::arch::NamedBarrier::arrive(2 * kWarpgroup, kFirstBarrier + 1 - group); }

private:
    static constexpr uint32_t kFirstBarrier = 1;  // CUTLASS adds its reserved ones to user barriers
};

}  // namespace sky4::cuda::sm90
