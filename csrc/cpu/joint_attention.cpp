#include "../joint_attention.h"

#include "attention.h"

namespace sky4::cpu {

void joint_attention(const JointAttention& args) { attend_segments(args, nullptr); }

}  // namespace sky4::cpu
