// From checked arguments to launches: fills AttentionParams, takes temporaries, chooses the head dim's launcher.
#include "attention.h"

#include <string>

#include "../../check.h"
#include "launch.h"

namespace sky4::cuda::sm80 {
namespace {

// Rows are copied 16 bytes at a time.
View view_of(const char* kernel, const std::string& argument, const TensorRef& x) {
    const auto stride = [&](int axis) { return x.shape[axis] > 1 ? x.stride[axis] : 0; };
    const View view{x.as<uint16_t>(), stride(0), stride(1), stride(2)};
    const bool aligned =
        reinterpret_cast<uintptr_t>(x.data) % 16 == 0 && view.batch % 8 == 0 && view.row % 8 == 0 && view.head % 8 == 0;
    if (x.elements() > 0 && !aligned)
        throw WrongValue(std::string(kernel) + ": " + argument +
                         " has heads that begin off 16-byte boundaries, expected them on such on cuda; pass a "
                         "contiguous copy");
    return view;
}

void fill_views(View (&views)[kMaxSegments], const char* kernel, const std::string& argument,
                const AttentionSegments& segments) {
    for (int i = 0; i < segments.count; ++i)
        views[i] = view_of(kernel, argument + "[" + std::to_string(i) + "]", segments.part[i]);
}

Axis axis_of(const AttentionSegments& segments) {
    Axis axis{};
    axis.count = segments.count;
    int64_t first = 0;
    for (int i = 0; i < segments.count; ++i) {
        axis.length[i] = static_cast<int>(segments.part[i].shape[1]);
        axis.first[i] = first;
        first += axis.length[i];
    }
    return axis;
}

// One segment in cubes.
Axis axis_of(const TensorRef& tokens, const TensorRef& starts) {
    Axis axis{};
    axis.count = 1;
    axis.length[0] = static_cast<int>(tokens.shape[1]);
    axis.starts = starts.as<const int>();
    axis.cubes = static_cast<int>(starts.shape[0]) - 1;
    return axis;
}

void fill_common(AttentionParams& p, const char* kernel, const TensorRef& first, const TensorRef& out,
                 const std::optional<TensorRef>& lse, float scale) {
    if (!(scale > 0.0f) || scale > 1e30f)
        throw WrongValue(std::string(kernel) + ": scale is " + std::to_string(scale) +
                         ", expected a positive number on cuda");
    p.out = view_of(kernel, "out", out);
    p.lse = lse ? lse->as<float>() : nullptr;
    p.batch = static_cast<int>(first.shape[0]);
    p.heads = static_cast<int>(first.shape[2]);
    p.total_queries = out.shape[1];
    p.scale = scale;
    p.splits = 1;
}

AttentionParams params_of(const char* kernel, const JointAttention& args) {
    AttentionParams p{};
    fill_common(p, kernel, args.queries.part[0], args.out, args.lse, args.scale);
    p.queries = axis_of(args.queries);
    p.keys = axis_of(args.keys);
    for (int i = 0; i < args.keys.count; ++i)
        if (args.lengths[i]) p.keys.lengths[i] = args.lengths[i]->as<const int>();
    fill_views(p.q, kernel, "queries", args.queries);
    fill_views(p.k, kernel, "keys", args.keys);
    fill_views(p.v, kernel, "values", args.values);
    return p;
}

AttentionParams params_of(const char* kernel, const BlockSparseAttention& args) {
    AttentionParams p{};
    fill_common(p, kernel, args.queries, args.out, args.lse, args.scale);
    p.queries = axis_of(args.queries, args.query_starts);
    p.keys = axis_of(args.keys, args.key_starts);
    p.q[0] = view_of(kernel, "queries", args.queries);
    p.k[0] = view_of(kernel, "keys", args.keys);
    p.v[0] = view_of(kernel, "values", args.values);
    if (args.text_keys) {
        p.keys.count = 2;
        p.keys.length[1] = static_cast<int>(args.text_keys->shape[1]);
        if (args.text_lengths) p.keys.lengths[1] = args.text_lengths->as<const int>();
        p.k[1] = view_of(kernel, "text_keys", *args.text_keys);
        p.v[1] = view_of(kernel, "text_values", *args.text_values);
    }
    p.selected = args.selected.as<const uint32_t>();
    p.words = static_cast<int>(args.selected.shape[3]);
    return p;
}

// `launcher` is called as launcher(std::integral_constant<int, head dim>).
template <typename Launcher>
void with_dim(int dim, const Launcher& launcher) {
    switch (dim) {
        case 32:
            return launcher(std::integral_constant<int, 32>());
        case 64:
            return launcher(std::integral_constant<int, 64>());
        case 96:
            return launcher(std::integral_constant<int, 96>());
        default:
            return launcher(std::integral_constant<int, 128>());  // attention_checks.h admits no other
    }
}

Launch launch_of(const char* kernel, const TensorRef& first, void* stream, bool sparse) {
    return {kernel, first.device_index, to_cuda(stream), first.dtype, static_cast<int>(first.shape[3]), sparse};
}

size_t stats_bytes(const AttentionParams& p) {
    return sizeof(float2) * p.batch * p.heads * static_cast<size_t>(p.total_queries);
}

}  // namespace

void joint_attention(const JointAttention& args) {
    constexpr const char* kName = "joint_attention";
    const Launch launch = launch_of(kName, args.queries.part[0], args.stream, false);
    const AttentionParams p = params_of(kName, args);
    const DeviceGuard guard(kName, launch.device);
    with_dim(launch.dim, [&](auto dim) { forward<dim()>(p, launch); });
}

void joint_attention_backward(const JointAttentionBackward& args) {
    constexpr const char* kName = "joint_attention_backward";
    const Launch launch = launch_of(kName, args.forward.queries.part[0], args.forward.stream, false);
    AttentionParams p = params_of(kName, args.forward);
    p.grad_out = view_of(kName, "grad_out", args.grad_out);
    fill_views(p.grad_q, kName, "grad_queries", args.grad_queries);
    fill_views(p.grad_k, kName, "grad_keys", args.grad_keys);
    fill_views(p.grad_v, kName, "grad_values", args.grad_values);

    const DeviceGuard guard(kName, launch.device);
    const Temporary stats(kName, launch.device, stats_bytes(p), launch.stream);
    p.stats = stats.as<float2>();
    backward_statistics(p, launch);
    with_dim(launch.dim, [&](auto dim) {
        backward_keys<dim()>(p, launch);
        backward_queries<dim()>(p, launch);
    });
}

void block_sparse_attention(const BlockSparseAttention& args) {
    constexpr const char* kName = "block_sparse_attention";
    const Launch launch = launch_of(kName, args.queries, args.stream, true);
    const AttentionParams p = params_of(kName, args);
    const DeviceGuard guard(kName, launch.device);
    with_dim(launch.dim, [&](auto dim) { forward<dim()>(p, launch); });
}

void block_sparse_attention_backward(const BlockSparseAttentionBackward& args) {
    constexpr const char* kName = "block_sparse_attention_backward";
    const Launch launch = launch_of(kName, args.forward.queries, args.forward.stream, true);
    AttentionParams p = params_of(kName, args.forward);
    p.grad_out = view_of(kName, "grad_out", args.grad_out);
    p.grad_q[0] = view_of(kName, "grad_queries", args.grad_queries);
    p.grad_k[0] = view_of(kName, "grad_keys", args.grad_keys);
    p.grad_v[0] = view_of(kName, "grad_values", args.grad_values);

    const DeviceGuard guard(kName, launch.device);
    const Temporary stats(kName, launch.device, stats_bytes(p), launch.stream);
    p.stats = stats.as<float2>();
    backward_statistics(p, launch);
    with_dim(launch.dim, [&](auto dim) { backward_queries<dim()>(p, launch); });

    // Key cubes walk the query cubes that selected them.
    const int64_t matrices = static_cast<int64_t>(p.batch) * p.heads;
    const int query_words = (p.queries.cubes + 31) / 32;
    const Temporary selected_by(kName, launch.device, sizeof(uint32_t) * matrices * p.keys.cubes * query_words,
                                launch.stream);
    transpose(p.selected, selected_by.as<uint32_t>(), matrices, p.queries.cubes, p.keys.cubes, launch);
    AttentionParams cubes = p;
    cubes.selected = selected_by.as<const uint32_t>();
    cubes.words = query_words;
    with_dim(launch.dim, [&](auto dim) { backward_keys<dim()>(cubes, launch); });
    if (!args.forward.text_keys) return;

    // Text keys are seen by all queries: a dense problem with the queries as one segment.
    AttentionParams text = p;
    text.keys.count = 1;
    text.keys.length[0] = p.keys.length[1];
    text.keys.lengths[0] = p.keys.lengths[1];
    text.k[0] = p.k[1];
    text.v[0] = p.v[1];
    text.grad_k[0] = view_of(kName, "grad_text_keys", *args.grad_text_keys);
    text.grad_v[0] = view_of(kName, "grad_text_values", *args.grad_text_values);
    Launch dense = launch;
    dense.sparse = false;
    with_dim(launch.dim, [&](auto dim) { backward_keys<dim()>(text, dense); });
}

}  // namespace sky4::cuda::sm80
