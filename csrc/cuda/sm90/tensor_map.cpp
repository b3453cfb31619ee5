#include "tensor_map.h"

#include <stdexcept>
#include <string>

#include "../device.h"

namespace sky4::cuda::sm90 {
namespace {

constexpr int64_t kAlignment = 16;                 // bytes, of addresses and strides
constexpr int64_t kLongestStride = 1ll << 40;      // bytes, exclusive
constexpr int64_t kLongestAxis = (1ll << 31) - 1;  // coordinates are 32-bit integers

// cuTensorMapEncodeTiled through the runtime, so that nothing links to the driver.
decltype(&cuTensorMapEncodeTiled) encoder(const char* kernel) {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found{};
#if CUDART_VERSION >= 12050
    check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found),
          kernel);
#else
    check(cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &function, cudaEnableDefault, &found), kernel);
#endif
    if (found != cudaDriverEntryPointSuccess || function == nullptr)
        throw std::runtime_error(std::string(kernel) +
                                 ": the CUDA driver has no cuTensorMapEncodeTiled; update it to one for CUDA 12");
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
}

}  // namespace

bool suits_copies(const TensorRef& tensor) {
    constexpr int64_t kElement = 2;  // bytes of bfloat16 and float16
    if (reinterpret_cast<uintptr_t>(tensor.data) % kAlignment != 0) return false;
    for (int axis = 0; axis < 3; ++axis) {
        const int64_t bytes = tensor.stride[axis] * kElement;
        if (tensor.shape[axis] > kLongestAxis) return false;
        if (tensor.shape[axis] > 1 && (bytes <= 0 || bytes % kAlignment != 0 || bytes >= kLongestStride)) return false;
    }
    return true;
}

CUtensorMap tensor_map(const TensorRef& tensor, int rows, const char* kernel) {
    static const auto encode = encoder(kernel);
    constexpr cuuint64_t kElement = 2, kPanel = 64;
    const cuuint64_t channels = tensor.shape[3];
    // The stride of an axis of one is never used, yet must be valid.
    const auto stride = [&](int axis) {
        return tensor.shape[axis] > 1 ? kElement * static_cast<cuuint64_t>(tensor.stride[axis]) : kElement * channels;
    };
    const cuuint64_t shape[5] = {kPanel, static_cast<cuuint64_t>(tensor.shape[1]), channels / kPanel,
                                 static_cast<cuuint64_t>(tensor.shape[2]), static_cast<cuuint64_t>(tensor.shape[0])};
    const cuuint64_t strides[4] = {stride(1), kElement * kPanel, stride(2), stride(0)};
    const cuuint32_t box[5] = {kPanel, static_cast<cuuint32_t>(rows), static_cast<cuuint32_t>(channels / kPanel), 1, 1};
    const cuuint32_t steps[5] = {1, 1, 1, 1, 1};
    const auto type =
        tensor.dtype == DType::bfloat16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
    CUtensorMap map;
    const CUresult status =
        encode(&map, type, 5, tensor.data, shape, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
               CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (status != CUDA_SUCCESS)
        throw std::runtime_error(std::string(kernel) + ": cuTensorMapEncodeTiled failed with status " +
                                 std::to_string(static_cast<int>(status)));
    return map;
}

}  // namespace sky4::cuda::sm90
