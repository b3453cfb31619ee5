// What happens to queries, keys or values between their projection and the attention, in one pass with one rounding:
// bias, RMSNorm, rotary embedding, reorder into cubes with their means, and (through `out`'s place in a longer buffer)
// concatenation of segments.
//
// B batch, N tokens, H heads, d channels per head (even), M cubes.
#pragma once

#include <optional>

#include "tensor.h"

namespace sky4 {

struct QKNormRope {
    TensorRef x;                      // [B, N, H, d] float32, bfloat16 or (CUDA) float16; any strides whose last is 1
    std::optional<TensorRef> bias;    // [H, d] x's dtype or float32, contiguous; added first
    std::optional<TensorRef> weight;  // [d]: RMSNorm over each head; [H, d]: over all heads together; none: no norm
    std::optional<TensorRef> turn;    // [1 or B, N, d / 2, 2] float32 contiguous: cosine and sine for each pair
    std::optional<TensorRef> order;   // [N] int64: row i of out is token order[i] of x; none: as they are
    std::optional<TensorRef> starts;  // [M + 1] int32: the cubes of out's rows; with `pooled`
    std::optional<TensorRef> pooled;  // [B, M, H, d] x's dtype, last stride 1: mean of the rounded rows of each cube
    TensorRef out;                    // [B, N, H, d] x's dtype, last stride 1; may be a slice of a longer buffer
    float eps = 1e-6f;
    void* stream = nullptr;
};

// The gradient of the bias, which is added first, is grad_x summed over B and N.
struct QKNormRopeBackward {
    TensorRef x;  // x, bias, weight, turn, order, starts, eps: as they were in the forward
    std::optional<TensorRef> bias;
    std::optional<TensorRef> weight;
    std::optional<TensorRef> turn;
    std::optional<TensorRef> order;
    std::optional<TensorRef> starts;
    TensorRef grad_out;                    // [B, N, H, d] x's dtype, last stride 1: the gradient at `out`
    std::optional<TensorRef> grad_pooled;  // [B, M, H, d] x's dtype, last stride 1: the gradient at `pooled`
    TensorRef grad_x;                      // [B, N, H, d] x's dtype, last stride 1, written
    std::optional<TensorRef> grad_weight;  // the weight's shape, float32, contiguous, written
    float eps = 1e-6f;
};

// Arithmetic is float32 from the bias to the rotation, then one rounding. Checks as in joint_attention.h.
void qk_norm_rope(const QKNormRope& args);

// On the CPU only. The roundings are taken as if they were not there. The same inputs give the same bits.
void qk_norm_rope_backward(const QKNormRopeBackward& args);

namespace cpu {
void qk_norm_rope(const QKNormRope& args);
void qk_norm_rope_backward(const QKNormRopeBackward& args);
}  // namespace cpu
namespace cuda {
void qk_norm_rope(const QKNormRope& args);
}

}  // namespace sky4
