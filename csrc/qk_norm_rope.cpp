#include "qk_norm_rope.h"

#include <string>

#include "dispatch.h"

namespace sky4 {
namespace {

constexpr const char* kName = "qk_norm_rope";

// What forward and backward have in common; `tokens` is the tensor [B, N, H, d] beside x, `cubes` the one [B, M, H, d].
template <typename Args>
void check(const char* kernel, const Args& args, const char* tokens_name, const TensorRef& tokens,
           const char* cubes_name, const std::optional<TensorRef>& cubes) {
    const TensorRef& x = args.x;
    const auto of = [&](const char* argument, const TensorRef& tensor) {
        const Checked checked(kernel, argument, tensor);
        checked.is_on(x.device).is_on_index(x.device_index);
        return checked;
    };
    of("x", x).has_ndim(4).has_dense_rows();
    if (x.device == Device::cpu)
        of("x", x).has_dtype(DType::float32, DType::bfloat16);
    else if (x.dtype != DType::float32)
        of("x", x).has_dtype(DType::bfloat16, DType::float16);
    const int64_t B = x.shape[0], N = x.shape[1], H = x.shape[2], d = x.shape[3];
    if (args.turn && d % 2 != 0)
        throw WrongValue(std::string(kernel) + ": x has " + std::to_string(d) +
                         " channels per head, expected an even number to rotate");
    of(tokens_name, tokens).has_dtype(x.dtype).has_shape({B, N, H, d}).has_dense_rows();
    if (args.bias) of("bias", *args.bias).has_dtype(x.dtype, DType::float32).has_shape({H, d}).is_contiguous();
    if (args.weight) {
        const Checked weight = of("weight", *args.weight);
        weight.has_dtype(x.dtype, DType::float32).is_contiguous();
        if (args.weight->ndim == 1)
            weight.has_shape({d});
        else
            weight.has_shape({H, d});
    }
    if (args.turn) {
        const int64_t batch = args.turn->ndim > 0 && args.turn->shape[0] == 1 ? 1 : B;
        of("turn", *args.turn).has_dtype(DType::float32).has_shape({batch, N, d / 2, 2}).is_contiguous();
    }
    if (args.order) of("order", *args.order).has_dtype(DType::int64).has_shape({N}).is_contiguous();
    if (args.starts.has_value() != cubes.has_value())
        throw WrongValue(std::string(kernel) + ": starts and " + cubes_name +
                         " come together, got one without the other");
    if (args.starts) {
        of("starts", *args.starts).has_dtype(DType::int32).has_ndim(1).is_contiguous().is_not_empty();
        of(cubes_name, *cubes).has_dtype(x.dtype).has_shape({B, args.starts->shape[0] - 1, H, d}).has_dense_rows();
    }
}

}  // namespace

void qk_norm_rope(const QKNormRope& args) {
    check(kName, args, "out", args.out, "pooled", args.pooled);
    on_device(kName, args.x.device, args, cpu::qk_norm_rope, SKY4_ON_CUDA(cuda::qk_norm_rope));
}

void qk_norm_rope_backward(const QKNormRopeBackward& args) {
    constexpr const char* kBackward = "qk_norm_rope_backward";
    Checked(kBackward, "x", args.x).is_on(Device::cpu);
    check(kBackward, args, "grad_out", args.grad_out, "grad_pooled", args.grad_pooled);
    const TensorRef& x = args.x;
    const Checked grad_x(kBackward, "grad_x", args.grad_x);
    grad_x.is_on(x.device).has_dtype(x.dtype);
    grad_x.has_shape({x.shape[0], x.shape[1], x.shape[2], x.shape[3]}).has_dense_rows();
    if (args.grad_weight) {
        if (!args.weight)
            throw WrongValue(std::string(kBackward) + ": grad_weight is given without weight; pass both or neither");
        const Checked grad_weight(kBackward, "grad_weight", *args.grad_weight);
        grad_weight.is_on(x.device).has_dtype(DType::float32).is_contiguous();
        if (args.weight->ndim == 1)
            grad_weight.has_shape({x.shape[3]});
        else
            grad_weight.has_shape({x.shape[2], x.shape[3]});
    }
    cpu::qk_norm_rope_backward(args);
}

}  // namespace sky4
