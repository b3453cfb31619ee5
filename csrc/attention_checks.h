// What the attention kernels ask of their tensors.
#pragma once

#include <string>

#include "check.h"

namespace sky4 {

// The first query says what all others must be: device, dtype, batch, heads, channels.
inline void check_first(const char* kernel, const char* argument, const TensorRef& x) {
    const Checked checked(kernel, argument, x);
    if (x.device == Device::cpu)
        checked.has_dtype(DType::float32, DType::bfloat16);
    else
        checked.has_dtype(DType::bfloat16, DType::float16);
    checked.has_ndim(4).has_dense_rows();
    const int64_t d = x.shape[3];
    if (d != 32 && d != 64 && d != 96 && d != 128)
        throw WrongValue(std::string(kernel) + ": " + argument + " has " + std::to_string(d) +
                         " channels per head, expected 32, 64, 96 or 128");
}

inline void check_tokens(const char* kernel, const char* argument, const TensorRef& x, const TensorRef& first,
                         int64_t tokens) {
    const Checked checked(kernel, argument, x);
    checked.is_on(first.device).has_dtype(first.dtype);
    checked.has_shape({first.shape[0], tokens, first.shape[2], first.shape[3]}).has_dense_rows();
    checked.is_on_index(first.device_index);
}

inline void check_lengths(const char* kernel, const char* argument, const TensorRef& x, const TensorRef& first) {
    const Checked checked(kernel, argument, x);
    checked.is_on(first.device).has_dtype(DType::int32).has_shape({first.shape[0]}).is_contiguous();
}

inline void check_lse(const char* kernel, const TensorRef& x, const TensorRef& first, int64_t tokens) {
    const Checked checked(kernel, "lse", x);
    checked.is_on(first.device).has_dtype(DType::float32);
    checked.has_shape({first.shape[0], first.shape[2], tokens}).is_contiguous();
}

}  // namespace sky4
