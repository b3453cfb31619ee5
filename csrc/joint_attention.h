// softmax(scale Q KT) V over segments given as separate tensors: Q, K and V are the segments one after the other.
//
// B batch, L_i length of segment i, H heads, d channels per head (32, 64, 96 or 128).
#pragma once

#include <array>
#include <optional>

#include "tensor.h"

namespace sky4 {

struct AttentionSegments {
    static constexpr int kMax = 4;

    int count = 0;
    std::array<TensorRef, kMax> part{};  // [B, L_i, H, d], any strides whose last is 1

    int64_t total_length() const {
        int64_t sum = 0;
        for (int i = 0; i < count; ++i) sum += part[i].shape[1];
        return sum;
    }
};

struct JointAttention {
    AttentionSegments queries;  // float32 or bfloat16 (CPU), bfloat16 or float16 (CUDA); all tensors share the dtype
    AttentionSegments keys;
    AttentionSegments values;  // lengths as the keys'
    std::array<std::optional<TensorRef>, AttentionSegments::kMax>
        lengths;                   // [B] int32 per key segment: keys that count
    TensorRef out;                 // [B, sum L_i, H, d], last stride 1
    std::optional<TensorRef> lse;  // [B, H, sum L_i] float32 contiguous, natural logarithm; -inf where no key counts
    float scale = 1.0f;
    void* stream = nullptr;  // CUDA stream; unused on the CPU
};

struct JointAttentionBackward {
    JointAttention forward;                                  // with `out` and `lse` as the forward left them
    TensorRef grad_out;                                      // like out
    AttentionSegments grad_queries, grad_keys, grad_values;  // written, also (with zeros) where lengths cut
};

// These check (WrongType, WrongValue before anything is written) and pass on to the device of the first query.
// Where a sample has no key at all, out and its gradients are zero.
void joint_attention(const JointAttention& args);
void joint_attention_backward(const JointAttentionBackward& args);

namespace cpu {
void joint_attention(const JointAttention& args);
void joint_attention_backward(const JointAttentionBackward& args);
}  // namespace cpu
namespace cuda {
void joint_attention(const JointAttention& args);
void joint_attention_backward(const JointAttentionBackward& args);
}  // namespace cuda

}  // namespace sky4
