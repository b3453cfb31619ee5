// Block-sparse attention as segments: [video ; text] keys, of which the video's come in cubes.
#include "../block_sparse_attention.h"

#include "attention.h"

namespace sky4::cpu {
namespace {

AttentionSegments segments(const TensorRef& video, const std::optional<TensorRef>& text) {
    AttentionSegments both;
    both.part[both.count++] = video;
    if (text) both.part[both.count++] = *text;
    return both;
}

JointAttention joined(const BlockSparseAttention& args) {
    JointAttention joint;
    joint.queries = segments(args.queries, std::nullopt);
    joint.keys = segments(args.keys, args.text_keys);
    joint.values = segments(args.values, args.text_values);
    joint.lengths[1] = args.text_lengths;
    joint.out = args.out;
    joint.lse = args.lse;
    joint.scale = args.scale;
    return joint;
}

Cubes cubes_of(const BlockSparseAttention& args) {
    return {args.query_starts.as<const int32_t>(), args.key_starts.as<const int32_t>(), args.query_starts.shape[0] - 1,
            args.key_starts.shape[0] - 1,          args.selected.as<const int32_t>(),   args.selected.shape[3]};
}

}  // namespace

void block_sparse_attention(const BlockSparseAttention& args) {
    const JointAttention joint = joined(args);
    const Cubes cubes = cubes_of(args);
    attend_segments(joint, &cubes);
}

void block_sparse_attention_backward(const BlockSparseAttentionBackward& args) {
    JointAttentionBackward joint;
    joint.forward = joined(args.forward);
    joint.grad_out = args.grad_out;
    joint.grad_queries = segments(args.grad_queries, std::nullopt);
    joint.grad_keys = segments(args.grad_keys, args.grad_text_keys);
    joint.grad_values = segments(args.grad_values, args.grad_text_values);
    const Cubes cubes = cubes_of(args.forward);
    attend_segments_backward(joint, &cubes);
}

}  // namespace sky4::cpu
