// The same inputs in several places (CPU, GPU): what kernel_cases.h is written with.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "../tensor.h"

namespace sky4::cases {

// Where tensors lie, and how bytes get there and back.
struct Place {
    Device device;
    void* (*take)(size_t bytes);
    void (*give_back)(void* data);
    void (*put)(void* there, const void* here, size_t bytes);
    void (*fetch)(void* here, const void* there, size_t bytes);
};

inline void copy_here(void* to, const void* from, size_t bytes) { std::memcpy(to, from, bytes); }

inline const Place kHere = {Device::cpu, std::malloc, std::free, copy_here, copy_here};

inline size_t size_of(DType dtype) {
    switch (dtype) {
        case DType::float32:
        case DType::int32:
            return 4;
        case DType::bfloat16:
        case DType::float16:
            return 2;
        case DType::int64:
            return 8;
        case DType::boolean:
            return 1;
    }
    return 0;
}

using Shape = std::initializer_list<int64_t>;

// Holds the tensors of one run in one place. Every tensor is an allocation of its own, so that a read or write past
// its end is seen; outputs are left as the allocator gives them, so that one that is never written is seen too.
class Bench {
public:
    Bench(const Place& place, DType dtype) : place_(place), dtype_(dtype) {}
    ~Bench() {
        for (void* data : held_) place_.give_back(data);
    }
    Bench(const Bench&) = delete;
    Bench& operator=(const Bench&) = delete;

    DType dtype() const { return dtype_; }  // of what the kernels compute with

    TensorRef empty(DType dtype, Shape shape) {
        TensorRef made;
        made.dtype = dtype;
        made.device = place_.device;
        made.ndim = static_cast<int>(shape.size());
        std::copy(shape.begin(), shape.end(), made.shape.begin());
        int64_t step = 1;
        for (int axis = made.ndim - 1; axis >= 0; --axis) {
            made.stride[axis] = step;
            step *= made.shape[axis];
        }
        const size_t bytes = std::max<size_t>(1, static_cast<size_t>(step) * size_of(dtype));
        made.data = place_.take(bytes);
        held_.push_back(made.data);
        return made;
    }

    // Normal values in bfloat16 or float32, the same everywhere.
    TensorRef normal(DType dtype, Shape shape, float scale = 1.0f) {
        std::normal_distribution<float> draw(0.0f, scale);
        return filled(dtype, shape, [&](int64_t) { return draw(random_); });
    }

    // Whole numbers from -3 to 3: their sums are exact in any order.
    TensorRef whole(DType dtype, Shape shape) {
        std::uniform_int_distribution<int> draw(-3, 3);
        return filled(dtype, shape, [&](int64_t) { return static_cast<float>(draw(random_)); });
    }

    TensorRef filled(DType dtype, Shape shape, const std::function<float(int64_t)>& value) {
        TensorRef made = empty(dtype, shape);
        const int64_t count = made.elements();
        std::vector<unsigned char> bytes(static_cast<size_t>(count) * size_of(dtype));
        for (int64_t i = 0; i < count; ++i) {
            const float number = value(i);
            unsigned char* place = bytes.data() + static_cast<size_t>(i) * size_of(dtype);
            if (dtype == DType::bfloat16) {
                const bf16 rounded = from_float<bf16>(number);
                std::memcpy(place, &rounded, sizeof rounded);
            } else if (dtype == DType::boolean) {
                *place = number != 0.0f;
            } else {
                std::memcpy(place, &number, sizeof number);
            }
        }
        return copied(made, bytes.data(), bytes.size());
    }

    template <typename T>
    TensorRef listed(DType dtype, Shape shape, const std::vector<T>& values) {
        return copied(empty(dtype, shape), values.data(), values.size() * sizeof(T));
    }

    // As it lies in memory; the tensor is one that this made, not a slice of one.
    std::vector<unsigned char> bytes_of(const TensorRef& tensor) const {
        std::vector<unsigned char> bytes(static_cast<size_t>(tensor.elements()) * size_of(tensor.dtype));
        if (!bytes.empty()) place_.fetch(bytes.data(), tensor.data, bytes.size());
        return bytes;
    }

    std::mt19937& random() { return random_; }

private:
    TensorRef copied(const TensorRef& made, const void* from, size_t bytes) {
        if (bytes > 0) place_.put(made.data, from, bytes);
        return made;
    }

    Place place_;
    DType dtype_;
    std::vector<void*> held_;
    std::mt19937 random_{20};
};

inline float number_at(const std::vector<unsigned char>& bytes, DType dtype, size_t i) {
    if (dtype == DType::bfloat16) {
        bf16 value;
        std::memcpy(&value, bytes.data() + 2 * i, sizeof value);
        return to_float(value);
    }
    float value;
    std::memcpy(&value, bytes.data() + 4 * i, sizeof value);
    return value;
}

// ||got - want|| / ||want|| over the finite values; NaN where infinities or NaN stand in different places.
inline double error_of(const std::vector<unsigned char>& got, const std::vector<unsigned char>& want, DType dtype) {
    double difference = 0.0, whole = 0.0;
    for (size_t i = 0; i < want.size() / size_of(dtype); ++i) {
        const float g = number_at(got, dtype, i), w = number_at(want, dtype, i);
        if (std::isinf(w) && g == w) continue;
        if (!std::isfinite(w) || !std::isfinite(g)) return NAN;
        difference += (double(g) - w) * (double(g) - w);
        whole += double(w) * w;
    }
    return whole > 0.0 ? std::sqrt(difference / whole) : std::sqrt(difference);
}

}  // namespace sky4::cases
