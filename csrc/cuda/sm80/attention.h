// Attention in mma.sync: every GPU from sm_80 on, all dtypes and head dims that attention_checks.h admits.
#pragma once

#include "../../block_sparse_attention.h"
#include "../../joint_attention.h"

namespace sky4::cuda::sm80 {

void joint_attention(const JointAttention& args);
void joint_attention_backward(const JointAttentionBackward& args);
void block_sparse_attention(const BlockSparseAttention& args);
void block_sparse_attention_backward(const BlockSparseAttentionBackward& args);

}  // namespace sky4::cuda::sm80
