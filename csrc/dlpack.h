// The DLPack exchange structures (dmlc/dlpack, ABI 1.x), written out here so that no framework header is needed.
// Producers (PyTorch, NumPy, CuPy, JAX) hand these structures over inside a Python capsule.
#pragma once

#include <cstdint>

namespace sky4::dlpack {

// Device and element codes of the ABI that our kernels know by name; any other code is refused with its number.
constexpr int32_t kCPU = 1;
constexpr int32_t kCUDA = 2;
constexpr int32_t kCUDAHost = 3;
constexpr int32_t kCUDAManaged = 13;
constexpr uint8_t kInt = 0;
constexpr uint8_t kUInt = 1;
constexpr uint8_t kFloat = 2;
constexpr uint8_t kBfloat = 4;
constexpr uint8_t kBool = 6;

constexpr uint32_t kMajorVersion = 1;
constexpr uint64_t kFlagReadOnly = 1;

struct Device {
    int32_t type;
    int32_t id;
};

struct DataType {
    uint8_t code;
    uint8_t bits;
    uint16_t lanes;
};

struct Tensor {
    void* data;
    Device device;
    int32_t ndim;
    DataType dtype;
    int64_t* shape;
    int64_t* strides;  // in elements; null = contiguous
    uint64_t byte_offset;
};

// Capsule "dltensor".
struct ManagedTensor {
    Tensor tensor;
    void* context;
    void (*deleter)(ManagedTensor*);
};

// Capsule "dltensor_versioned".
struct ManagedTensorVersioned {
    struct {
        uint32_t major;
        uint32_t minor;
    } version;
    void* context;
    void (*deleter)(ManagedTensorVersioned*);
    uint64_t flags;
    Tensor tensor;
};

// What a producer's type may carry as `__dlpack_c_exchange_api__` (capsule "dlpack_exchange_api"): its tensors without
// a call into Python. PyTorch's way through `__dlpack__` takes 3 microseconds a tensor, this one a tenth of that.
struct ExchangeAPI {
    struct {
        uint32_t major;
        uint32_t minor;
    } version;
    void* previous;
    void* allocate;
    int (*managed_from_object)(void* object, ManagedTensorVersioned** out);  // 0, or -1 and a Python exception
    void* managed_to_object;
    int (*tensor_from_object)(void* object, Tensor* out);  // borrows; may be null
    void* current_stream;
};

}  // namespace sky4::dlpack
