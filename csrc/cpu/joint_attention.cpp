#include "../joint_attention.h"

#include "attention.h"

namespace sky4::cpu {

void joint_attention(const JointAttention& args) { attend_segments(args, nullptr); }
void joint_attention_backward(const JointAttentionBackward& args) { attend_segments_backward(args, nullptr); }

}  // namespace sky4::cpu
