// Passes a checked call on to the device that its tensors lie on.
#pragma once

#include <string>

#include "check.h"

namespace sky4 {

template <typename Args>
struct Kernel {
    using type = void (*)(const Args&);
};

template <typename Args>
void on_device([[maybe_unused]] const char* kernel, Device device, const Args& args, typename Kernel<Args>::type cpu,
               [[maybe_unused]] typename Kernel<Args>::type cuda) {
    if (device == Device::cpu) return cpu(args);
#ifdef SKY4_CUDA
    cuda(args);
#else
    throw WrongValue(std::string(kernel) +
                     ": the tensors are on cuda and this sky4._C was built without CUDA kernels; build it again where "
                     "nvcc and a GPU are found, or with SKY4_CUDA_ARCHS set");
#endif
}

// The CUDA half of a call, only named where it exists.
#ifdef SKY4_CUDA
#define SKY4_ON_CUDA(function) function
#else
#define SKY4_ON_CUDA(function) nullptr
#endif

}  // namespace sky4
