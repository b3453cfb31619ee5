#include "qk_norm_rope.h"

#include <string>

#include "dispatch.h"

namespace sky4 {
namespace {

constexpr const char* kName = "qk_norm_rope";

void check(const QKNormRope& args) {
    const TensorRef& x = args.x;
    const auto of = [&](const char* argument, const TensorRef& tensor) {
        const Checked checked(kName, argument, tensor);
        checked.is_on(x.device);
        return checked;
    };
    of("x", x).has_ndim(4).has_dense_rows();
    if (x.device == Device::cpu)
        of("x", x).has_dtype(DType::float32, DType::bfloat16);
    else if (x.dtype != DType::float32)
        of("x", x).has_dtype(DType::bfloat16, DType::float16);
    const int64_t B = x.shape[0], N = x.shape[1], H = x.shape[2], d = x.shape[3];
    if (args.turn && d % 2 != 0)
        throw WrongValue(std::string(kName) + ": x has " + std::to_string(d) +
                         " channels per head, expected an even number to rotate");
    of("out", args.out).has_dtype(x.dtype).has_shape({B, N, H, d}).has_dense_rows();
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
    if (args.starts.has_value() != args.pooled.has_value())
        throw WrongValue(std::string(kName) + ": starts and pooled come together, got one without the other");
    if (args.starts) {
        of("starts", *args.starts).has_dtype(DType::int32).has_ndim(1).is_contiguous().is_not_empty();
        of("pooled", *args.pooled).has_dtype(x.dtype).has_shape({B, args.starts->shape[0] - 1, H, d}).has_dense_rows();
    }
}

}  // namespace

void qk_norm_rope(const QKNormRope& args) {
    check(args);
    on_device(kName, args.x.device, args, cpu::qk_norm_rope, SKY4_ON_CUDA(cuda::qk_norm_rope));
}

}  // namespace sky4
