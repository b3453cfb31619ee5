// Stands in for CUDA kernels that are still to come; each goes as its kernel lands.
#include "../block_sparse_attention.h"
#include "../check.h"
#include "../joint_attention.h"

namespace sky4::cuda {
void joint_attention(const JointAttention&) { throw WrongValue("joint_attention: not there yet"); }
void joint_attention_backward(const JointAttentionBackward&) { throw WrongValue("not there yet"); }
void block_sparse_attention(const BlockSparseAttention&) { throw WrongValue("not there yet"); }
void block_sparse_attention_backward(const BlockSparseAttentionBackward&) { throw WrongValue("not there yet"); }
}  // namespace sky4::cuda
