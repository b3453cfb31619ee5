// A stand-in for the CUDA runtime that runs a kernel's own source on the CPU: one fiber per CUDA thread, block after
// block, with real barriers and warp exchanges. For tests of index arithmetic and order on tiny shapes, without a GPU.
//
// Compile a .cu file as C++ with this folder first on the include path and SKY4_EMULATED defined. Not here: timing,
// memory ordering, races between threads that no barrier separates, asynchronous copies, matrix instructions.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __grid_constant__
#define __launch_bounds__(...)
// Blocks run one after the other and no kernel calls itself: a static variable is a block's own.
#define __shared__ static

struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct dim3 {
    unsigned x = 1, y = 1, z = 1;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

// Threads that wait for one another: a block, or a warp of it.
struct Gathering {
    int members = 0, arrived = 0;
    long meetings = 0;

    void settle() {
        if (members > 0 && arrived == members) arrived = 0, ++meetings;
    }
};

struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    bool done = false;
};

constexpr size_t kStackBytes = 256 << 10;
constexpr unsigned kFull = 0xffffffffu;

struct Block {
    std::vector<Fiber> fibers;
    std::vector<Gathering> warps;
    std::vector<uint64_t> slots;  // what each thread gives to its warp
    Gathering all;
    std::function<void()> body;
    ucontext_t scheduler;
    unsigned current = 0;
    long finished = 0;
};

inline Block* block = nullptr;
inline std::unique_ptr<unsigned char[]> dynamic_bytes;

[[noreturn]] inline void fail(const char* why) {
    std::fprintf(stderr, "CUDA emulation: %s\n", why);
    std::abort();
}

inline void yield() { swapcontext(&block->fibers[block->current].context, &block->scheduler); }

inline void meet(Gathering& gathering) {
    const long before = gathering.meetings;
    ++gathering.arrived;
    gathering.settle();
    while (gathering.meetings == before) yield();
}

inline void enter() {
    block->body();
    block->fibers[block->current].done = true;
    ++block->finished;
    // Threads that have left are waited for no longer.
    Gathering& warp = block->warps[block->current / 32];
    --warp.members, warp.settle();
    --block->all.members, block->all.settle();
    yield();
}

inline long progress() {
    long sum = block->finished + block->all.meetings;
    for (const Gathering& warp : block->warps) sum += warp.meetings;
    return sum;
}

inline void run_block(unsigned threads, const std::function<void()>& body) {
    Block here;
    block = &here;
    here.body = body;
    here.fibers.resize(threads);
    here.slots.resize(threads);
    here.warps.resize((threads + 31) / 32);
    for (unsigned i = 0; i < threads; ++i) ++here.warps[i / 32].members;
    here.all.members = static_cast<int>(threads);
    for (Fiber& fiber : here.fibers) {
        fiber.stack.reset(new char[kStackBytes]);
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.get();
        fiber.context.uc_stack.ss_size = kStackBytes;
        fiber.context.uc_link = &here.scheduler;
        makecontext(&fiber.context, &enter, 0);
    }
    while (here.finished < static_cast<long>(threads)) {
        const long before = progress();
        for (here.current = 0; here.current < threads; ++here.current) {
            if (here.fibers[here.current].done) continue;
            threadIdx = dim3(here.current % blockDim.x, here.current / blockDim.x % blockDim.y,
                             here.current / blockDim.x / blockDim.y);
            swapcontext(&here.scheduler, &here.fibers[here.current].context);
        }
        if (progress() == before) fail("threads wait for one another at different barriers");
    }
    block = nullptr;
}

// Gives `value` to the warp and returns that of another lane, picked once all are there.
template <typename T, typename Use>
auto exchange(unsigned mask, T value, const Use& use) {
    static_assert(sizeof(T) <= sizeof(uint64_t));
    Gathering& warp = block->warps[block->current / 32];
    if (mask != kFull || warp.members != 32) fail("a warp exchange without all 32 lanes");
    const unsigned mine = block->current, first = mine / 32 * 32;
    std::memcpy(&block->slots[mine], &value, sizeof value);
    meet(warp);
    const auto result = use([&](unsigned lane) {
        T given;
        std::memcpy(&given, &block->slots[first + lane % 32], sizeof given);
        return given;
    });
    meet(warp);
    return result;
}

}  // namespace emulation

inline void __syncthreads() { emulation::meet(emulation::block->all); }
inline void __syncwarp() { emulation::meet(emulation::block->warps[emulation::block->current / 32]); }

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int step) {
    const unsigned lane = emulation::block->current % 32;
    return emulation::exchange(mask, value, [&](const auto& of) { return of(lane ^ static_cast<unsigned>(step)); });
}
inline unsigned __ballot_sync(unsigned mask, bool vote) {
    return emulation::exchange(mask, vote, [](const auto& of) {
        unsigned bits = 0;
        for (unsigned lane = 0; lane < 32; ++lane) bits |= static_cast<unsigned>(of(lane)) << lane;
        return bits;
    });
}

using std::max;
using std::min;
inline float __uint_as_float(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
inline uint32_t __float_as_uint(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
template <typename T>
void __stcs(T* to, const T& value) {
    if (reinterpret_cast<uintptr_t>(to) % sizeof(T) != 0) emulation::fail("a store off its alignment");
    *to = value;
}

// The runtime, of a GPU with few multiprocessors and little shared memory, so that small shapes reach every path.
enum cudaError_t { cudaSuccess, cudaErrorNoKernelImageForDevice };
enum cudaDeviceAttr {
    cudaDevAttrMultiProcessorCount,
    cudaDevAttrComputeCapabilityMajor,
    cudaDevAttrComputeCapabilityMinor,
    cudaDevAttrMaxSharedMemoryPerBlockOptin
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum cudaMemPoolAttr { cudaMemPoolAttrReleaseThreshold };
enum { cudaMemAllocationTypePinned, cudaMemLocationTypeDevice };
struct cudaMemPoolProps {
    int allocType;
    struct {
        int type, id;
    } location;
};
using cudaStream_t = void*;
using cudaMemPool_t = void*;
struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes = 0;
    cudaStream_t stream = nullptr;
};

inline const char* cudaGetErrorString(cudaError_t) { return "emulated"; }
inline const char* cudaGetErrorName(cudaError_t) { return "emulated"; }
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
    constexpr int kValues[] = {2, 8, 0, 4096};
    *value = kValues[attribute];
    return cudaSuccess;
}
template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel*, cudaFuncAttribute, int) {
    return cudaSuccess;
}
inline cudaError_t cudaMemPoolCreate(cudaMemPool_t* pool, const cudaMemPoolProps*) {
    static int any;
    return *pool = &any, cudaSuccess;
}
inline cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) { return cudaSuccess; }
inline cudaError_t cudaMallocFromPoolAsync(void** data, size_t bytes, cudaMemPool_t, cudaStream_t) {
    *data = std::malloc(bytes);
    std::memset(*data, 0xff, bytes);  // what was there before shows
    return cudaSuccess;
}
inline cudaError_t cudaFreeAsync(void* data, cudaStream_t) { return std::free(data), cudaSuccess; }

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
    gridDim = config->gridDim;
    blockDim = config->blockDim;
    const unsigned threads = blockDim.x * blockDim.y * blockDim.z;
    if (gridDim.x == 0 || gridDim.y == 0 || gridDim.z == 0 || threads == 0 || threads > 1024)
        emulation::fail("a launch of no block or of too many threads");
    if (gridDim.y > 65535 || gridDim.z > 65535) emulation::fail("a grid with too many blocks along y or z");
    for (unsigned z = 0; z < gridDim.z; ++z)
        for (unsigned y = 0; y < gridDim.y; ++y)
            for (unsigned x = 0; x < gridDim.x; ++x) {
                blockIdx = dim3(x, y, z);
                emulation::dynamic_bytes.reset(new unsigned char[config->dynamicSmemBytes]);
                emulation::run_block(threads, [&] { kernel(arguments...); });
            }
    return cudaSuccess;
}

namespace sky4::cuda {
template <typename T>
T* dynamic_shared() {
    return reinterpret_cast<T*>(emulation::dynamic_bytes.get());
}
}  // namespace sky4::cuda
