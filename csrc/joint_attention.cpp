#include "joint_attention.h"

#include <string>

#include "attention_checks.h"
#include "dispatch.h"

namespace sky4 {
namespace {

// One list of segments: [B, L_i, H, d] each, alike in all but L_i.
void check_segments(const char* kernel, const std::string& argument, const AttentionSegments& segments,
                    const TensorRef& first) {
    if (segments.count < 1)
        throw WrongValue(std::string(kernel) + ": " + argument + " holds no segment, expected 1 to " +
                         std::to_string(AttentionSegments::kMax));
    for (int i = 0; i < segments.count; ++i) {
        const std::string name = argument + "[" + std::to_string(i) + "]";
        const TensorRef& x = segments.part[i];
        check_tokens(kernel, name.c_str(), x, first, x.ndim > 1 ? x.shape[1] : 0);
    }
}

// Segment i of `segments` is as long as segment i of `like`.
void check_same_lengths(const char* kernel, const std::string& argument, const AttentionSegments& segments,
                        const AttentionSegments& like) {
    if (segments.count != like.count)
        throw WrongValue(std::string(kernel) + ": " + argument + " holds " + std::to_string(segments.count) +
                         " segments, expected " + std::to_string(like.count));
    for (int i = 0; i < segments.count; ++i)
        if (segments.part[i].shape[1] != like.part[i].shape[1])
            throw WrongValue(std::string(kernel) + ": " + argument + "[" + std::to_string(i) + "] has " +
                             std::to_string(segments.part[i].shape[1]) + " tokens, expected " +
                             std::to_string(like.part[i].shape[1]));
}

void check(const char* kernel, const JointAttention& args) {
    if (args.queries.count < 1) throw WrongValue(std::string(kernel) + ": queries holds no segment, expected 1 to 4");
    const TensorRef& first = args.queries.part[0];
    check_first(kernel, "queries[0]", first);
    check_segments(kernel, "queries", args.queries, first);
    check_segments(kernel, "keys", args.keys, first);
    check_segments(kernel, "values", args.values, first);
    check_same_lengths(kernel, "values", args.values, args.keys);
    for (int i = 0; i < args.keys.count; ++i) {
        if (!args.lengths[i]) continue;
        const std::string name = "lengths[" + std::to_string(i) + "]";
        check_lengths(kernel, name.c_str(), *args.lengths[i], first);
    }
    check_tokens(kernel, "out", args.out, first, args.queries.total_length());
    if (args.lse) check_lse(kernel, *args.lse, first, args.queries.total_length());
}

}  // namespace

void joint_attention(const JointAttention& args) {
    constexpr const char* kName = "joint_attention";
    check(kName, args);
    on_device(kName, args.out.device, args, cpu::joint_attention, SKY4_ON_CUDA(cuda::joint_attention));
}

void joint_attention_backward(const JointAttentionBackward& args) {
    constexpr const char* kName = "joint_attention_backward";
    const JointAttention& forward = args.forward;
    check(kName, forward);
    if (!forward.lse) throw WrongValue(std::string(kName) + ": lse is missing, expected that of the forward");
    const TensorRef& first = forward.queries.part[0];
    check_tokens(kName, "grad_out", args.grad_out, first, forward.queries.total_length());
    check_segments(kName, "grad_queries", args.grad_queries, first);
    check_segments(kName, "grad_keys", args.grad_keys, first);
    check_segments(kName, "grad_values", args.grad_values, first);
    check_same_lengths(kName, "grad_queries", args.grad_queries, forward.queries);
    check_same_lengths(kName, "grad_keys", args.grad_keys, forward.keys);
    check_same_lengths(kName, "grad_values", args.grad_values, forward.keys);
    on_device(kName, forward.out.device, args, cpu::joint_attention_backward,
              SKY4_ON_CUDA(cuda::joint_attention_backward));
}

}  // namespace sky4
