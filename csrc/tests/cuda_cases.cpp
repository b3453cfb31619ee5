// Every CUDA kernel on small and awkward shapes, against the CPU kernel on the same bits: what compute-sanitizer
// watches in scripts/gpu_check. One line per case; the exit code is the number of cases that failed, at most 99.
//
//   sky4_cuda_cases [PART OF A CASE'S NAME]
#include <cuda_runtime.h>

#include "kernel_cases.h"

namespace {

void check(cudaError_t status) {
    if (status != cudaSuccess) throw std::runtime_error(cudaGetErrorString(status));
}

void* take(size_t bytes) {
    void* data = nullptr;
    check(cudaMalloc(&data, bytes));
    return data;
}

void give_back(void* data) { cudaFree(data); }

void put(void* there, const void* here, size_t bytes) { check(cudaMemcpy(there, here, bytes, cudaMemcpyHostToDevice)); }

// Waits for the kernels, and so hears of their faults.
void fetch(void* here, const void* there, size_t bytes) {
    check(cudaDeviceSynchronize());
    check(cudaMemcpy(here, there, bytes, cudaMemcpyDeviceToHost));
}

}  // namespace

int main(int count, char** arguments) {
    using namespace sky4::cases;
    const Place there = {sky4::Device::cuda, take, give_back, put, fetch};
    return run_cases(count > 1 ? arguments[1] : "", {sky4::DType::bfloat16},
                     [&](const Case& tried, sky4::DType dtype) { return fault_of(tried, dtype, kHere, [] {}, there); });
}
