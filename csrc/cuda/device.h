// What every CUDA launcher needs of the runtime: checked calls, the tensors' device, temporary memory on a stream.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>

#include "../tensor.h"

namespace sky4::cuda {

// Throws with the kernel's name where a runtime call failed; after a launch: check(cudaGetLastError(), kName).
inline void check(cudaError_t status, const char* kernel) {
    if (status == cudaSuccess) return;
    std::string text = std::string(kernel) + ": " + cudaGetErrorString(status) + " (" + cudaGetErrorName(status) + ")";
    if (status == cudaErrorNoKernelImageForDevice)
        text += "; build sky4._C again on this machine, or with this GPU's architecture in SKY4_CUDA_ARCHS";
    throw std::runtime_error(text);
}

inline cudaStream_t to_cuda(void* stream) { return static_cast<cudaStream_t>(stream); }

// Makes the tensors' device current for the length of a launcher.
class DeviceGuard {
public:
    DeviceGuard(const char* kernel, int device) {
        check(cudaGetDevice(&before_), kernel);
        if (device == before_) return;
        check(cudaSetDevice(device), kernel);
        changed_ = true;
    }
    ~DeviceGuard() {
        if (changed_) cudaSetDevice(before_);
    }
    DeviceGuard(const DeviceGuard&) = delete;
    DeviceGuard& operator=(const DeviceGuard&) = delete;

private:
    int before_ = 0;
    bool changed_ = false;
};

inline int device_attribute(const char* kernel, int device, cudaDeviceAttr attribute) {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, attribute, device), kernel);
    return value;
}

inline int multiprocessors(const char* kernel, int device) {
    return device_attribute(kernel, device, cudaDevAttrMultiProcessorCount);
}

// 10 major + minor: 80, 86, 89, 90.
inline int compute_capability(const char* kernel, int device) {
    return 10 * device_attribute(kernel, device, cudaDevAttrComputeCapabilityMajor) +
           device_attribute(kernel, device, cudaDevAttrComputeCapabilityMinor);
}

inline void require_capability(const char* kernel, int device, int least) {
    const int have = compute_capability(kernel, device);
    if (have < least)
        throw std::runtime_error(std::string(kernel) + ": the GPU has compute capability " + std::to_string(have / 10) +
                                 "." + std::to_string(have % 10) + ", expected at least " + std::to_string(least / 10) +
                                 "." + std::to_string(least % 10));
}

// Puts a kernel on a stream. Arguments are converted to the kernel's parameters.
template <typename... Parameters, typename... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
            cudaStream_t stream, Arguments&&... arguments) {
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    check(cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...), name);
}

#ifndef SKY4_EMULATED
// The shared memory that a launch asked for beyond the kernel's own.
template <typename T>
__device__ T* dynamic_shared() {
    extern __shared__ __align__(16) unsigned char bytes[];
    return reinterpret_cast<T*>(bytes);
}
#endif

// The pool that temporaries come from (memory.cpp): ours, so that no framework's own pool is changed.
cudaMemPool_t temporary_pool(const char* kernel, int device);

// Memory for what a launcher puts on one stream: taken and given back in the stream's order, never waiting for it.
// The current device is `device`; a size of 0 gives a null pointer.
class Temporary {
public:
    Temporary(const char* kernel, int device, size_t bytes, cudaStream_t stream) : stream_(stream) {
        if (bytes > 0) check(cudaMallocFromPoolAsync(&data_, bytes, temporary_pool(kernel, device), stream), kernel);
    }
    ~Temporary() {
        if (data_ != nullptr) cudaFreeAsync(data_, stream_);
    }
    Temporary(const Temporary&) = delete;
    Temporary& operator=(const Temporary&) = delete;

    template <typename T>
    T* as() const {
        return static_cast<T*>(data_);
    }

private:
    void* data_ = nullptr;
    cudaStream_t stream_;
};

}  // namespace sky4::cuda
