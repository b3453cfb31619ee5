// TensorRef: a borrowed view of somebody's memory. Kernels see nothing else of the framework that owns it.
#pragma once

#include <array>
#include <cstdint>
#include <string>

namespace sky4 {

enum class DType : uint8_t { float32, bfloat16, float16, int32, int64, boolean };
enum class Device : uint8_t { cpu, cuda };

inline const char* name(DType dtype) {
    switch (dtype) {
        case DType::float32:
            return "float32";
        case DType::bfloat16:
            return "bfloat16";
        case DType::float16:
            return "float16";
        case DType::int32:
            return "int32";
        case DType::int64:
            return "int64";
        case DType::boolean:
            return "bool";
    }
    return "?";
}

inline const char* name(Device device) { return device == Device::cpu ? "cpu" : "cuda"; }

struct TensorRef {
    static constexpr int kMaxDims = 8;

    void* data = nullptr;
    DType dtype = DType::float32;
    Device device = Device::cpu;
    int device_index = 0;
    int ndim = 0;
    std::array<int64_t, kMaxDims> shape{};
    std::array<int64_t, kMaxDims> stride{};  // in elements

    template <typename T>
    T* as() const {
        return static_cast<T*>(data);
    }

    int64_t elements() const {
        int64_t count = 1;
        for (int d = 0; d < ndim; ++d) count *= shape[d];
        return count;
    }
};

// bfloat16 as its bits: the upper half of a float32.
struct bf16 {
    uint16_t bits;
};

inline float to_float(float x) { return x; }

inline float to_float(bf16 x) {
    uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
    float value;
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
}

template <typename T>
T from_float(float x);

template <>
inline float from_float<float>(float x) {
    return x;
}

// Round to nearest, ties to even; a NaN stays a (quiet) NaN instead of rounding up to infinity.
template <>
inline bf16 from_float<bf16>(float x) {
    uint32_t bits;
    __builtin_memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return bf16{static_cast<uint16_t>((bits >> 16) | 0x0040u)};
    return bf16{static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

}  // namespace sky4
