// Checks on the arguments of a kernel. Each failure is an exception whose sentence names the kernel, the argument,
// what came and what was expected; bindings.cpp turns WrongType into TypeError and WrongValue into ValueError.
#pragma once

#include <initializer_list>
#include <stdexcept>
#include <string>

#include "tensor.h"

namespace sky4 {

struct WrongType : std::invalid_argument {
    using std::invalid_argument::invalid_argument;
};

struct WrongValue : std::invalid_argument {
    using std::invalid_argument::invalid_argument;
};

inline std::string format_shape(const int64_t* shape, int ndim) {
    std::string text = "[";
    for (int d = 0; d < ndim; ++d) text += (d ? ", " : "") + std::to_string(shape[d]);
    return text + "]";
}

// An argument of a kernel, as errors name it. Put together only when there is one to tell.
struct Where {
    const char* kernel;
    const char* argument;
};

inline std::string operator+(const Where& where, const std::string& text) {
    return std::string(where.kernel) + ": " + where.argument + text;
}

// One argument under examination, whose name must outlive it: `Checked(kernel, "noise",
// noise).is_on(...).has_dtype(...).has_shape(...)`.
class Checked {
public:
    Checked(const char* kernel, const char* argument, const TensorRef& tensor)
        : where_{kernel, argument}, tensor_(tensor) {}

    const Checked& is_on(Device device) const {
        if (tensor_.device != device)
            throw WrongType(where_ + " is on device " + name(tensor_.device) + ", expected " + name(device));
        return *this;
    }

    const Checked& is_on_index(int index) const {
        if (tensor_.device_index != index)
            throw WrongType(where_ + " is on device number " + std::to_string(tensor_.device_index) + ", expected " +
                            std::to_string(index));
        return *this;
    }

    const Checked& has_dtype(DType dtype) const {
        if (tensor_.dtype != dtype)
            throw WrongType(where_ + " has dtype " + name(tensor_.dtype) + ", expected " + name(dtype));
        return *this;
    }

    const Checked& has_dtype(DType first, DType second) const {
        if (tensor_.dtype != first && tensor_.dtype != second)
            throw WrongType(where_ + " has dtype " + name(tensor_.dtype) + ", expected " + name(first) + " or " +
                            name(second));
        return *this;
    }

    const Checked& has_ndim(int ndim) const {
        if (tensor_.ndim != ndim)
            throw WrongValue(where_ + " has " + std::to_string(tensor_.ndim) + " axes, expected " +
                             std::to_string(ndim));
        return *this;
    }

    const Checked& has_shape(std::initializer_list<int64_t> shape) const {
        const int ndim = static_cast<int>(shape.size());
        bool same = tensor_.ndim == ndim;
        for (int d = 0; same && d < ndim; ++d) same = tensor_.shape[d] == shape.begin()[d];
        if (!same)
            throw WrongValue(where_ + " has shape " + format_shape(tensor_.shape.data(), tensor_.ndim) + ", expected " +
                             format_shape(shape.begin(), ndim));
        return *this;
    }

    // Rows are read with stride 1; the other axes may lie anyhow (a cut or an expanded tensor is fine).
    const Checked& has_dense_rows() const {
        const int last = tensor_.ndim - 1;
        if (last >= 0 && tensor_.shape[last] > 1 && tensor_.stride[last] != 1)
            throw WrongValue(where_ + " has stride " + std::to_string(tensor_.stride[last]) +
                             " along its last axis, expected 1");
        return *this;
    }

    const Checked& is_contiguous() const {
        if (tensor_.elements() == 0) return *this;
        int64_t expected = 1;
        for (int d = tensor_.ndim - 1; d >= 0; --d) {
            if (tensor_.shape[d] > 1 && tensor_.stride[d] != expected)
                throw WrongValue(where_ + " has stride " + std::to_string(tensor_.stride[d]) + " along axis " +
                                 std::to_string(d) + ", expected " + std::to_string(expected) + " (contiguous)");
            expected *= tensor_.shape[d];
        }
        return *this;
    }

    const Checked& is_not_empty() const {
        if (tensor_.elements() == 0)
            throw WrongValue(where_ + " has shape " + format_shape(tensor_.shape.data(), tensor_.ndim) +
                             ", expected at least one element");
        return *this;
    }

private:
    Where where_;
    const TensorRef& tensor_;
};

}  // namespace sky4
