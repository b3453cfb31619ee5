// The fine stage of Video Sparse Attention: the tokens of a query cube attend to the tokens of its selected key cubes,
// and to all text keys.
//
// Tokens lie in cube order without padding: cube c owns rows starts[c] .. starts[c + 1] - 1, at most 64 of them.
// B batch, N query tokens in M_q cubes, N_k key tokens in M_k cubes, N_t text tokens, H heads, d channels per head.
#pragma once

#include <optional>

#include "tensor.h"

namespace sky4 {

struct BlockSparseAttention {
    static constexpr int kCube = 64;

    TensorRef queries;       // [B, N, H, d], any strides whose last is 1; dtypes as for JointAttention
    TensorRef keys, values;  // [B, N_k, H, d]
    TensorRef query_starts;  // [M_q + 1] int32, on the tensors' device, ascending from 0 to N
    TensorRef key_starts;    // [M_k + 1] int32
    TensorRef selected;  // [B, H, M_q, ceil(M_k / 32)] int32 contiguous: bit k % 32 of word k / 32 selects key cube k
    std::optional<TensorRef> text_keys, text_values;  // [B, N_t, H, d]
    std::optional<TensorRef> text_lengths;            // [B] int32: text keys that count
    TensorRef out;                                    // [B, N, H, d], last stride 1
    std::optional<TensorRef> lse;                     // [B, H, N] float32 contiguous, natural logarithm
    float scale = 1.0f;
    void* stream = nullptr;
};

struct BlockSparseAttentionBackward {
    BlockSparseAttention forward;  // with `out` and `lse` as the forward left them
    TensorRef grad_out;
    TensorRef grad_queries, grad_keys, grad_values;
    std::optional<TensorRef> grad_text_keys, grad_text_values;
};

// Zero output, and lse -inf, for a query cube that selects nothing. Checks as in joint_attention.h.
void block_sparse_attention(const BlockSparseAttention& args);
void block_sparse_attention_backward(const BlockSparseAttentionBackward& args);

namespace cpu {
void block_sparse_attention(const BlockSparseAttention& args);
void block_sparse_attention_backward(const BlockSparseAttentionBackward& args);
}  // namespace cpu
namespace cuda {
void block_sparse_attention(const BlockSparseAttention& args);
void block_sparse_attention_backward(const BlockSparseAttentionBackward& args);
}  // namespace cuda

}  // namespace sky4
