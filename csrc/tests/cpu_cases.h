// Small tensors in plain memory, read and compared element by element: what cpu_kernels.cpp is written with.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "../tensor.h"

namespace sky4::cases {

inline size_t size_of(DType dtype) {
    switch (dtype) {
        case DType::bfloat16:
        case DType::float16:
            return 2;
        case DType::int64:
            return 8;
        case DType::boolean:
            return 1;
        default:
            return 4;
    }
}

// Owns a tensor's memory: an allocation of exactly its size, so that a sanitizer sees a step beside it.
class Held {
public:
    Held(DType dtype, std::initializer_list<int64_t> shape) {
        ref_.dtype = dtype;
        ref_.ndim = static_cast<int>(shape.size());
        std::copy(shape.begin(), shape.end(), ref_.shape.begin());
        int64_t step = 1;
        for (int axis = ref_.ndim - 1; axis >= 0; --axis) ref_.stride[axis] = step, step *= ref_.shape[axis];
        memory_.reset(new unsigned char[static_cast<size_t>(step) * size_of(dtype)]);
        std::memset(memory_.get(), 0xff, static_cast<size_t>(step) * size_of(dtype));  // NaN until written
        ref_.data = memory_.get();
    }

    operator const TensorRef&() const { return ref_; }
    const TensorRef& ref() const { return ref_; }

    // [first, first + count) along one axis.
    TensorRef cut(int axis, int64_t first, int64_t count) const {
        TensorRef part = ref_;
        part.data = memory_.get() + static_cast<size_t>(first * ref_.stride[axis]) * size_of(ref_.dtype);
        part.shape[axis] = count;
        return part;
    }

private:
    std::unique_ptr<unsigned char[]> memory_;
    TensorRef ref_;
};

using Index = std::initializer_list<int64_t>;

inline int64_t offset(const TensorRef& x, Index index) {
    int64_t at = 0;
    int axis = 0;
    for (const int64_t i : index) at += i * x.stride[axis++];
    return at;
}

inline double get(const TensorRef& x, Index index) {
    const int64_t at = offset(x, index);
    if (x.dtype == DType::bfloat16) return static_cast<double>(to_float(x.as<bf16>()[at]));
    if (x.dtype == DType::int32) return x.as<int32_t>()[at];
    if (x.dtype == DType::int64) return static_cast<double>(x.as<int64_t>()[at]);
    if (x.dtype == DType::boolean) return x.as<uint8_t>()[at];
    return static_cast<double>(x.as<float>()[at]);
}

inline void set(const TensorRef& x, int64_t at, double value) {
    if (x.dtype == DType::bfloat16)
        x.as<bf16>()[at] = from_float<bf16>(static_cast<float>(value));
    else if (x.dtype == DType::int32)
        x.as<int32_t>()[at] = static_cast<int32_t>(value);
    else if (x.dtype == DType::int64)
        x.as<int64_t>()[at] = static_cast<int64_t>(value);
    else if (x.dtype == DType::boolean)
        x.as<uint8_t>()[at] = static_cast<uint8_t>(value);
    else
        x.as<float>()[at] = static_cast<float>(value);
}

// A contiguous tensor with the given numbers.
inline Held numbers(DType dtype, std::initializer_list<int64_t> shape, const std::function<double(int64_t)>& value) {
    Held made(dtype, shape);
    for (int64_t i = 0; i < made.ref().elements(); ++i) set(made, i, value(i));
    return made;
}

// The same numbers on every run: uniform in [-2, 2], or whole ones among them.
class Source {
public:
    explicit Source(uint64_t seed) : state_(seed * 2654435761u + 1) {}
    double uniform() {
        state_ = state_ * 6364136223846793005u + 1442695040888963407u;
        return static_cast<double>(state_ >> 40) / (1 << 22) - 2;
    }
    double whole() { return std::floor(uniform() + 0.5); }

    Held tensor(DType dtype, std::initializer_list<int64_t> shape) {
        return numbers(dtype, shape, [&](int64_t) { return uniform(); });
    }

private:
    uint64_t state_;
};

// Counts what did not come out as expected, and says the first few.
class Verdict {
public:
    void expect(const std::string& what, double found, double wanted, double tolerance) {
        ++looked_at_;
        const bool same = found == wanted || (std::isnan(found) && std::isnan(wanted));
        if (same || std::abs(found - wanted) <= tolerance) return;
        if (++wrong_ <= 10)
            std::printf("%s is %.9g, expected %.9g within %.2g\n", what.c_str(), found, wanted, tolerance);
    }

    int end() const {
        std::printf("%lld numbers compared, %lld wrong\n", looked_at_, wrong_);
        return wrong_ == 0 && looked_at_ > 0 ? 0 : 1;
    }

private:
    long long looked_at_ = 0, wrong_ = 0;
};

// Of a value near `wanted`: the type's rounding, and float32's errors of sums whose terms are about `terms`.
inline double tolerance(DType dtype, double wanted, double terms = 1) {
    return (dtype == DType::bfloat16 ? std::abs(wanted) / 256 : 0) + 1e-5 * (std::abs(wanted) + terms);
}

}  // namespace sky4::cases
