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

struct Version {
    uint32_t major;
    uint32_t minor;
};

// Capsule "dltensor_versioned".
struct ManagedTensorVersioned {
    Version version;
    void* context;
    void (*deleter)(ManagedTensorVersioned*);
    uint64_t flags;
    Tensor tensor;
};

// Capsule "dlpack_exchange_api", the attribute __dlpack_c_exchange_api__ of a tensor type: the same without a detour
// through Python. Functions return 0, or -1 with a Python exception set.
struct ExchangeAPI {
    Version version;
    ExchangeAPI* previous;  // of an older version, or null
    int (*allocate)(Tensor*, ManagedTensorVersioned**, void*, void (*)(void*, const char*, const char*));
    int (*managed_from_object)(void* object, ManagedTensorVersioned** out);
    int (*managed_to_object)(ManagedTensorVersioned* tensor, void** out);
    int (*tensor_from_object)(void* object, Tensor* out);  // a view, valid while the object is not changed; may be null
    int (*current_stream)(int32_t device_type, int32_t device_id, void** out);
};

}  // namespace sky4::dlpack
