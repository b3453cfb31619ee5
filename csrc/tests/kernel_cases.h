// Every kernel on small and awkward shapes: the same cases for each place and instruction set.
//
// B batch, N tokens, H heads, d channels per head, M cubes.
#pragma once

#include <cstdio>
#include <string>

#include "../block_sparse_attention.h"
#include "../joint_attention.h"
#include "../latent_assemble.h"
#include "../qk_norm_rope.h"
#include "../select_cubes.h"
#include "bench.h"

namespace sky4::cases {

// What two roundings of the same sums to bfloat16 may differ by, over a whole tensor; a wrong row is far above.
constexpr double kClose = 2e-2;

using Outputs = std::vector<TensorRef>;
using Run = std::function<Outputs(Bench&)>;

struct Case {
    std::string name;
    Run run;
};

inline TensorRef slice(TensorRef tensor, int axis, int64_t first, int64_t count) {
    tensor.data = static_cast<char*>(tensor.data) + first * tensor.stride[axis] * int64_t(size_of(tensor.dtype));
    tensor.shape[axis] = count;
    return tensor;
}

inline AttentionSegments segments(std::initializer_list<TensorRef> parts) {
    AttentionSegments made;
    for (const TensorRef& part : parts) made.part[made.count++] = part;
    return made;
}

// Media and text as two segments; the second sample counts half of the media keys, or no key at all, and no text.
inline JointAttention joint(Bench& bench, int64_t d, int64_t queries, int64_t keys, int64_t text, bool none = false) {
    const int64_t B = 2, H = 2;
    JointAttention args;
    const TensorRef q = bench.normal(bench.dtype(), {B, queries + text, H, d});
    args.queries = segments({slice(q, 1, 0, queries), slice(q, 1, queries, text)});
    args.keys = segments({bench.normal(bench.dtype(), {B, keys, H, d}), bench.normal(bench.dtype(), {B, text, H, d})});
    args.values =
        segments({bench.normal(bench.dtype(), {B, keys, H, d}), bench.normal(bench.dtype(), {B, text, H, d})});
    args.lengths[0] = bench.listed<int32_t>(DType::int32, {B}, {int32_t(keys), none ? 0 : int32_t(keys / 2)});
    args.lengths[1] = bench.listed<int32_t>(DType::int32, {B}, {int32_t(text), 0});
    args.out = bench.empty(bench.dtype(), {B, queries + text, H, d});
    args.lse = bench.empty(DType::float32, {B, H, queries + text});
    args.scale = 1.0f / std::sqrt(float(d));
    return args;
}

inline Outputs joint_backward(Bench& bench, int64_t d, int64_t queries, int64_t keys, int64_t text) {
    JointAttentionBackward args;
    args.forward = joint(bench, d, queries, keys, text);
    joint_attention(args.forward);
    const int64_t B = 2, H = 2;
    args.grad_out = bench.normal(bench.dtype(), {B, queries + text, H, d});
    const auto like = [&](int64_t length) { return bench.empty(bench.dtype(), {B, length, H, d}); };
    const TensorRef dq = like(queries), dq_text = like(text), dk = like(keys), dk_text = like(text);
    const TensorRef dv = like(keys), dv_text = like(text);
    args.grad_queries = segments({dq, dq_text});
    args.grad_keys = segments({dk, dk_text});
    args.grad_values = segments({dv, dv_text});
    joint_attention_backward(args);
    return {dq, dq_text, dk, dk_text, dv, dv_text};
}

// Ragged cubes, a query cube that selects nothing and one that selects all.
inline BlockSparseAttention sparse(Bench& bench, int64_t d, int64_t text) {
    const std::vector<int32_t> query_starts = {0, 64, 80, 81, 144, 208};
    std::vector<int32_t> key_starts = {0};
    for (int size : {64, 16, 1, 63, 64, 64, 17, 64, 15, 64, 64, 64}) key_starts.push_back(key_starts.back() + size);
    const int64_t B = 1, H = 2, N = query_starts.back(), keys = key_starts.back();
    const int64_t rows = int64_t(query_starts.size()) - 1, cubes = int64_t(key_starts.size()) - 1;
    BlockSparseAttention args;
    args.queries = bench.normal(bench.dtype(), {B, N, H, d});
    args.keys = bench.normal(bench.dtype(), {B, keys, H, d});
    args.values = bench.normal(bench.dtype(), {B, keys, H, d});
    args.query_starts = bench.listed(DType::int32, {rows + 1}, query_starts);
    args.key_starts = bench.listed(DType::int32, {cubes + 1}, key_starts);
    std::vector<int32_t> bits;
    for (int64_t row = 0; row < B * H * rows; ++row) {
        const int32_t all = (1 << cubes) - 1;
        const int32_t some = int32_t(bench.random()()) & all;
        bits.push_back(row % rows == 1 ? 0 : row % rows == 2 ? all : some);
    }
    args.selected = bench.listed(DType::int32, {B, H, rows, 1}, bits);
    if (text > 0) {
        args.text_keys = bench.normal(bench.dtype(), {B, text, H, d});
        args.text_values = bench.normal(bench.dtype(), {B, text, H, d});
        args.text_lengths = bench.listed<int32_t>(DType::int32, {B}, {int32_t(text - 3)});
    }
    args.out = bench.empty(bench.dtype(), {B, N, H, d});
    args.lse = bench.empty(DType::float32, {B, H, N});
    args.scale = 1.0f / std::sqrt(float(d));
    return args;
}

inline Outputs sparse_backward(Bench& bench, int64_t d, int64_t text) {
    BlockSparseAttentionBackward args;
    args.forward = sparse(bench, d, text);
    block_sparse_attention(args.forward);
    const auto like = [&](const TensorRef& x) {
        return bench.empty(bench.dtype(), {x.shape[0], x.shape[1], x.shape[2], x.shape[3]});
    };
    const TensorRef& q = args.forward.queries;
    args.grad_out = bench.normal(bench.dtype(), {q.shape[0], q.shape[1], q.shape[2], q.shape[3]});
    args.grad_queries = like(q);
    args.grad_keys = like(args.forward.keys);
    args.grad_values = like(args.forward.values);
    Outputs outputs = {args.grad_queries, args.grad_keys, args.grad_values};
    if (args.forward.text_keys) {
        args.grad_text_keys = like(*args.forward.text_keys);
        args.grad_text_values = like(*args.forward.text_values);
        outputs.push_back(*args.grad_text_keys);
        outputs.push_back(*args.grad_text_values);
    }
    block_sparse_attention_backward(args);
    return outputs;
}

inline Outputs prep(Bench& bench, int64_t d, bool across_heads, bool cubes) {
    const int64_t B = 2, N = 70, H = 3;
    QKNormRope args;
    args.x = bench.normal(bench.dtype(), {B, N, H, d});
    args.bias = bench.normal(bench.dtype(), {H, d});
    args.weight = across_heads ? bench.normal(bench.dtype(), {H, d}) : bench.normal(bench.dtype(), {d});
    args.turn = bench.normal(DType::float32, {1, N, d / 2, 2});
    const TensorRef out = bench.filled(bench.dtype(), {B, N + 9, H, d}, [](int64_t) { return 0.0f; });
    args.out = slice(out, 1, 5, N);
    Outputs outputs = {out};
    if (cubes) {
        std::vector<int64_t> order(N);
        for (int64_t i = 0; i < N; ++i) order[i] = (i * 29) % N;  // 29 and 70 share no factor
        args.order = bench.listed(DType::int64, {N}, order);
        args.starts = bench.listed<int32_t>(DType::int32, {4}, {0, 64, 65, 70});
        args.pooled = bench.empty(bench.dtype(), {B, 3, H, d});
        outputs.push_back(*args.pooled);
    }
    qk_norm_rope(args);
    return outputs;
}

inline Outputs assemble(Bench& bench, bool all) {
    const DType dtype = bench.dtype();
    const int64_t B = 2, C = 4, T = 3, T2 = 5, H = 10, W = 13, K = 2;
    LatentAssemble args;
    args.low = bench.normal(dtype, {B, C, T, 5, 6});
    args.noise = bench.normal(dtype, {B, C, T2, H, W});
    int64_t frames[K] = {4, 0};
    if (all) {
        args.keyframes = bench.normal(dtype, {B, C, K, H, W});
        TensorRef indices;  // on the CPU on every device
        indices.data = frames;
        indices.dtype = DType::int64;
        indices.ndim = 1;
        indices.shape[0] = K;
        indices.stride[0] = 1;
        args.keyframe_indices = indices;
        args.source = bench.normal(dtype, {B, C, T2, H, W});
        args.source_mask = bench.filled(DType::boolean, {B, 1, T2, H, W}, [](int64_t i) { return float(i % 3 == 0); });
    }
    args.out = bench.empty(dtype, {B, 2 * C, T2, H, W});
    latent_assemble(args);
    return {args.out};
}

inline Outputs select(Bench& bench, int64_t keys, int64_t keep) {
    const int64_t B = 1, H = 2, rows = 5, d = 64;
    SelectCubes args;
    args.queries = bench.whole(bench.dtype(), {B, rows, H, d});
    args.keys = bench.whole(bench.dtype(), {B, keys, H, d});
    args.keep = keep;
    args.selected = bench.empty(DType::int32, {B, H, rows, (keys + 31) / 32});
    select_cubes(args);
    return {args.selected};
}

inline std::vector<Case> all_cases() {
    std::vector<Case> cases;
    for (const bool across : {false, true})
        for (const bool cubes : {false, true})
            cases.push_back(
                {std::string("qk_norm_rope") + (across ? " across heads" : " per head") + (cubes ? " in cubes" : ""),
                 [=](Bench& bench) { return prep(bench, 64, across, cubes); }});
    cases.push_back({"qk_norm_rope d=128", [](Bench& bench) { return prep(bench, 128, false, true); }});
    for (const bool all : {false, true})
        cases.push_back({std::string("latent_assemble") + (all ? " with keyframes and source" : ""),
                         [=](Bench& bench) { return assemble(bench, all); }});
    for (const int64_t keep : {1, 9, 70})
        cases.push_back(
            {"select_cubes " + std::to_string(keep) + " of 70", [=](Bench& bench) { return select(bench, 70, keep); }});
    for (const int64_t d : {32, 64, 96, 128}) {
        const std::string size = " d=" + std::to_string(d);
        const auto forward = [d](int64_t queries, int64_t keys, int64_t text, bool none) {
            return [=](Bench& bench) -> Outputs {
                const JointAttention args = joint(bench, d, queries, keys, text, none);
                joint_attention(args);
                return {args.out, *args.lse};
            };
        };
        cases.push_back({"joint_attention 130 queries, 131+5 keys" + size, forward(130, 131, 5, false)});
        cases.push_back({"joint_attention 1 query, 700+77 keys" + size, forward(1, 700, 77, false)});
        cases.push_back({"joint_attention 300 queries, 218+1 or no keys" + size, forward(300, 218, 1, true)});
        cases.push_back({"joint_attention_backward 130 queries, 131+5 keys" + size,
                         [d](Bench& bench) { return joint_backward(bench, d, 130, 131, 5); }});
        for (const int64_t text : {0, 77}) {
            const std::string with = size + (text ? " with text" : "");
            cases.push_back({"block_sparse_attention" + with, [=](Bench& bench) -> Outputs {
                                 const BlockSparseAttention args = sparse(bench, d, text);
                                 block_sparse_attention(args);
                                 return {args.out, *args.lse};
                             }});
            cases.push_back({"block_sparse_attention_backward" + with,
                             [=](Bench& bench) { return sparse_backward(bench, d, text); }});
        }
    }
    return cases;
}

// Empty where the second run agrees with the first, else what is wrong.
inline std::string fault_of(const Case& tried, DType dtype, const Place& first, const std::function<void()>& then,
                            const Place& second) {
    try {
        Bench wanting(first, dtype), getting(second, dtype);
        const Outputs wanted = tried.run(wanting);
        then();
        const Outputs got = tried.run(getting);
        for (size_t i = 0; i < wanted.size(); ++i) {
            const auto want_bytes = wanting.bytes_of(wanted[i]), got_bytes = getting.bytes_of(got[i]);
            if (wanted[i].dtype == DType::int32) {
                if (want_bytes != got_bytes) return "output " + std::to_string(i) + ": other bits are set";
                continue;
            }
            const double error = error_of(got_bytes, want_bytes, wanted[i].dtype);
            if (!(error <= kClose)) return "output " + std::to_string(i) + ": relative error " + std::to_string(error);
        }
        return "";
    } catch (const std::exception& error) {
        return error.what();
    }
}

// Runs the cases whose names contain `part`, one line each; returns how many failed, at most 99, or 99 if there is
// none.
inline int run_cases(const std::string& part, std::initializer_list<DType> dtypes,
                     const std::function<std::string(const Case&, DType)>& fault) {
    int ran = 0, failed = 0;
    for (const Case& tried : all_cases()) {
        for (const DType dtype : dtypes) {
            const std::string title = tried.name + " " + name(dtype);
            if (title.find(part) == std::string::npos) continue;
            const std::string wrong = fault(tried, dtype);
            ++ran;
            failed += !wrong.empty();
            std::printf("%-80s %s\n", title.c_str(), wrong.empty() ? "ok" : wrong.c_str());
            std::fflush(stdout);
        }
    }
    std::printf("%d cases, %d failed\n", ran, failed);
    return ran == 0 ? 99 : std::min(failed, 99);
}

}  // namespace sky4::cases
