// The refiner's input in one pass (interpolate, replace keyframes, paste the source, put beside the noise).
#pragma once

#include <optional>

#include "tensor.h"

namespace sky4 {

struct LatentAssemble {
    TensorRef low;                              // [B, C, T, h, w] float32 or bfloat16; all latents share its dtype
    TensorRef noise;                            // [B, C, T2, H, W]
    std::optional<TensorRef> keyframes;         // [B, C, K, H, W]
    std::optional<TensorRef> keyframe_indices;  // [K] int64, distinct frames of T2, on the CPU
    std::optional<TensorRef> source;            // [B, C, T2, H, W]
    std::optional<TensorRef> source_mask;       // [B, 1, T2, H, W] bool or the latents' dtype; exactly 1 = source
    TensorRef out;                              // [B, 2C, T2, H, W] contiguous: noise, then condition
    void* stream = nullptr;                     // CUDA stream; unused on the CPU
};

// Throws WrongType or WrongValue, before anything is written.
void latent_assemble(const LatentAssemble& args);

namespace cpu {
void latent_assemble(const LatentAssemble& args);
}
namespace cuda {
void latent_assemble(const LatentAssemble& args);
}

}  // namespace sky4
