// The part of the CUDA language and runtime that csrc/cuda uses, on the host: a kernel launch runs its blocks one after
// the other, memory is the host's, and the one device is what `emulated::device()` says.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>

#include "block.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

struct uint4 {
    uint32_t x, y, z, w;
};
struct float2 {
    float x, y;
};
struct float4 {
    float x, y, z, w;
};

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
    dim3(unsigned across = 1) : x(across) {}
};

// Read as the fiber that asks sees them.
struct EmulatedThreadIdx {
    struct {
        operator unsigned() const { return static_cast<unsigned>(sky4::emulated::me()); }
    } x;
};
struct EmulatedBlockIdx {
    struct {
        operator unsigned() const { return sky4::emulated::block().block.x; }
    } x;
};
inline const EmulatedThreadIdx threadIdx{};
inline const EmulatedBlockIdx blockIdx{};

inline void __syncthreads() {
    auto& b = sky4::emulated::block();
    const int64_t step = b.step;
    if (++b.arrived == b.threads) {
        b.arrived = 0;
        ++b.step;
    } else {
        sky4::emulated::wait_to_leave(b.step, step);
    }
}

inline void __syncwarp() {
    using namespace sky4::emulated;
    exchange(Op::sync, 0, [](int64_t) { ++my_warp().syncs; });
}

inline float __shfl_xor_sync(uint32_t, float x, int mask) {
    using namespace sky4::emulated;
    const int64_t step = exchange(Op::shuffle, x, [](int64_t) {});
    return left_by<float>(step, (me() % 32) ^ mask);
}

inline uint32_t __ballot_sync(uint32_t, bool vote) {
    using namespace sky4::emulated;
    const int64_t step = exchange(Op::ballot, vote, [](int64_t) {});
    uint32_t bits = 0;
    for (int lane = 0; lane < 32; ++lane) bits |= static_cast<uint32_t>(left_by<bool>(step, lane)) << lane;
    return bits;
}

enum cudaError_t { cudaSuccess, cudaErrorInvalidValue, cudaErrorNoKernelImageForDevice };
enum cudaDeviceAttr {
    cudaDevAttrMultiProcessorCount,
    cudaDevAttrComputeCapabilityMajor,
    cudaDevAttrComputeCapabilityMinor
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
using cudaStream_t = void*;
using cudaMemPool_t = void*;

namespace sky4::emulated {

struct Gpu {
    int multiprocessors = 1, capability = 80;
    unsigned first_block = 0;  // blocks run from here on, round about
    int64_t launches = 0, blocks = 0;
};

inline Gpu& device() {
    static Gpu instance;
    return instance;
}

}  // namespace sky4::emulated

inline const char* cudaGetErrorString(cudaError_t) { return "emulated"; }
inline const char* cudaGetErrorName(cudaError_t) { return "emulated"; }
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidValue; }

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
    const sky4::emulated::Gpu& device = sky4::emulated::device();
    *value = attribute == cudaDevAttrMultiProcessorCount      ? device.multiprocessors
             : attribute == cudaDevAttrComputeCapabilityMajor ? device.capability / 10
                                                              : device.capability % 10;
    return cudaSuccess;
}

inline cudaError_t cudaMallocFromPoolAsync(void** data, size_t bytes, cudaMemPool_t, cudaStream_t) {
    *data = std::malloc(bytes);
    std::memset(*data, 0xff, bytes);  // NaN
    return cudaSuccess;
}

inline cudaError_t cudaFreeAsync(void* data, cudaStream_t) { return std::free(data), cudaSuccess; }

inline cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int bytes) {
    return bytes <= 99 * 1024 ? cudaSuccess : cudaErrorInvalidValue;
}

struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes = 0;
    cudaStream_t stream = nullptr;
};

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
    using namespace sky4::emulated;
    const unsigned blocks = config->gridDim.x;
    if (blocks == 0 || config->blockDim.x % 32 != 0) return cudaErrorInvalidValue;
    ++device().launches;
    device().blocks += blocks;
    for (unsigned i = 0; i < blocks; ++i)
        run_block({(i + device().first_block) % blocks, 0, 0}, {blocks, 1, 1}, static_cast<int>(config->blockDim.x),
                  config->dynamicSmemBytes, [&] { kernel(arguments...); });
    return cudaSuccess;
}
