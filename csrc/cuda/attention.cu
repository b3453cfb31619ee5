// Which attention kernels a GPU gets: wgmma on sm_90 where it is built in and serves the call, mma.sync else.
#include <cstdlib>
#include <cstring>
#include <string>

#include "../check.h"
#include "device.h"
#include "sm80/attention.h"
#ifdef SKY4_CUDA_SM90
#include "sm90/attention.h"
#endif

namespace sky4::cuda {
namespace {

// SKY4_CUDA_PATH=mma, for tests, leaves wgmma aside.
bool mma_is_forced(const char* kernel) {
    const char* path = std::getenv("SKY4_CUDA_PATH");
    if (path == nullptr || *path == '\0') return false;
    if (std::strcmp(path, "mma") != 0)
        throw WrongValue(std::string(kernel) + ": SKY4_CUDA_PATH is \"" + path + "\", expected mma or nothing");
    return true;
}

bool may_use_wgmma(const char* kernel, const TensorRef& first) {
    require_capability(kernel, first.device_index, 80);
    return !mma_is_forced(kernel) && compute_capability(kernel, first.device_index) == 90;
}

}  // namespace

void joint_attention(const JointAttention& args) {
    [[maybe_unused]] const bool wgmma = may_use_wgmma("joint_attention", args.queries.part[0]);
#ifdef SKY4_CUDA_SM90
    if (wgmma && sm90::joint_attention(args)) return;
#endif
    sm80::joint_attention(args);
}

void joint_attention_backward(const JointAttentionBackward& args) {
    require_capability("joint_attention_backward", args.forward.queries.part[0].device_index, 80);
    sm80::joint_attention_backward(args);
}

void block_sparse_attention(const BlockSparseAttention& args) {
    [[maybe_unused]] const bool wgmma = may_use_wgmma("block_sparse_attention", args.queries);
#ifdef SKY4_CUDA_SM90
    if (wgmma && sm90::block_sparse_attention(args)) return;
#endif
    sm80::block_sparse_attention(args);
}

void block_sparse_attention_backward(const BlockSparseAttentionBackward& args) {
    require_capability("block_sparse_attention_backward", args.forward.queries.device_index, 80);
    sm80::block_sparse_attention_backward(args);
}

}  // namespace sky4::cuda
