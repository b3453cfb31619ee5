#include "latent_assemble.h"

#include <string>

#include "dispatch.h"

namespace sky4 {
namespace {

constexpr const char* kName = "latent_assemble";

void check(const LatentAssemble& args) {
    const auto of = [](const char* argument, const TensorRef& tensor) { return Checked(kName, argument, tensor); };
    const auto latents = [&](const char* argument, const TensorRef& tensor) {
        const Checked checked = of(argument, tensor);
        checked.is_on(args.low.device).is_on_index(args.low.device_index).has_dtype(args.low.dtype).has_ndim(5);
        return checked;
    };
    of("low", args.low).has_dtype(DType::float32, DType::bfloat16).has_ndim(5).has_dense_rows();
    of("low", args.low).is_not_empty();
    latents("noise", args.noise).has_dense_rows().is_not_empty();
    const int64_t B = args.low.shape[0], C = args.low.shape[1];
    const int64_t T2 = args.noise.shape[2], H = args.noise.shape[3], W = args.noise.shape[4];
    of("noise", args.noise).has_shape({B, C, T2, H, W});
    latents("out", args.out).has_shape({B, 2 * C, T2, H, W}).is_contiguous();

    if (args.keyframes.has_value() != args.keyframe_indices.has_value())
        throw WrongValue(std::string(kName) +
                         ": keyframes and keyframe_indices come together, got one without the other");
    if (args.keyframes) {
        const Checked indices = of("keyframe_indices", *args.keyframe_indices);
        indices.is_on(Device::cpu).has_dtype(DType::int64).has_ndim(1);
        const int64_t K = args.keyframe_indices->shape[0];
        latents("keyframes", *args.keyframes).has_shape({B, C, K, H, W}).has_dense_rows();
    }
    if (args.source.has_value() != args.source_mask.has_value())
        throw WrongValue(std::string(kName) + ": source and source_mask come together, got one without the other");
    if (args.source) {
        latents("source", *args.source).has_shape({B, C, T2, H, W}).has_dense_rows();
        const Checked mask = of("source_mask", *args.source_mask);
        mask.is_on(args.low.device)
            .is_on_index(args.low.device_index)
            .has_dtype(DType::boolean, args.low.dtype)
            .has_shape({B, 1, T2, H, W})
            .has_dense_rows();
    }
}

}  // namespace

void latent_assemble(const LatentAssemble& args) {
    check(args);
    on_device(kName, args.low.device, args, cpu::latent_assemble, SKY4_ON_CUDA(cuda::latent_assemble));
}

}  // namespace sky4
