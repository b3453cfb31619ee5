// joint_attention and block_sparse_attention with their backwards against loops in float64.
#pragma once

#include <algorithm>

#include "../block_sparse_attention.h"
#include "../joint_attention.h"
#include "cpu_cases.h"

namespace sky4::cases {

// Rows of several tensors [B, L_i, H, d], one after the other.
class Joined {
public:
    explicit Joined(std::vector<TensorRef> parts) : parts_(std::move(parts)) {}

    int64_t length() const {
        int64_t sum = 0;
        for (const TensorRef& part : parts_) sum += part.shape[1];
        return sum;
    }
    double at(int64_t b, int64_t row, int64_t h, int64_t j) const {
        size_t i = 0;
        for (; row >= parts_[i].shape[1]; ++i) row -= parts_[i].shape[1];
        return get(parts_[i], {b, row, h, j});
    }

private:
    std::vector<TensorRef> parts_;
};

struct AttentionTensors {
    Joined queries, keys, values, out, grad_out, grad_queries, grad_keys, grad_values;
    TensorRef lse;  // [B, H, L_q]
};

// sees(b, h, query, key): the keys that a query attends to.
using Sees = std::function<bool(int64_t, int64_t, int64_t, int64_t)>;

inline void expect_attention(Verdict& verdict, const std::string& kernel, DType dtype, int64_t B, int64_t H, int64_t d,
                             double scale, const AttentionTensors& given, const Sees& sees) {
    const int64_t L_q = given.queries.length(), L_k = given.keys.length();
    const auto near = [&](const char* what, double found, double wanted) {
        // bfloat16 rounds the probabilities too, in the kernel as in torch: an error in proportion to the terms.
        const double terms = dtype == DType::bfloat16 ? 4e-2 : 3e-5;
        verdict.expect(kernel + ": " + what, found, wanted, terms + tolerance(dtype, wanted));
    };
    for (int64_t bh = 0; bh < B * H; ++bh) {
        const int64_t b = bh / H, h = bh % H;
        std::vector<double> dk(static_cast<size_t>(L_k * d)), dv(static_cast<size_t>(L_k * d));
        for (int64_t i = 0; i < L_q; ++i) {
            std::vector<double> p(static_cast<size_t>(L_k)), out(static_cast<size_t>(d)), dq(static_cast<size_t>(d));
            double sum = 0, delta = 0;
            for (int64_t k = 0; k < L_k; ++k) {
                double score = 0;
                for (int64_t j = 0; j < d; ++j) score += given.queries.at(b, i, h, j) * given.keys.at(b, k, h, j);
                sum += p[k] = sees(b, h, i, k) ? std::exp(score * scale) : 0;
            }
            for (int64_t k = 0; k < L_k; ++k) {
                p[k] = sum > 0 ? p[k] / sum : 0;
                for (int64_t j = 0; j < d; ++j) out[j] += p[k] * given.values.at(b, k, h, j);
            }
            for (int64_t j = 0; j < d; ++j) {
                near("out", given.out.at(b, i, h, j), out[j]);
                delta += given.grad_out.at(b, i, h, j) * out[j];
            }
            const double lse = sum > 0 ? std::log(sum) : -std::numeric_limits<double>::infinity();
            near("lse", get(given.lse, {b, h, i}), lse);
            for (int64_t k = 0; k < L_k; ++k) {
                if (p[k] == 0) continue;
                double dp = 0;
                for (int64_t j = 0; j < d; ++j) {
                    dp += given.grad_out.at(b, i, h, j) * given.values.at(b, k, h, j);
                    dv[k * d + j] += p[k] * given.grad_out.at(b, i, h, j);
                }
                const double ds = p[k] * (dp - delta) * scale;
                for (int64_t j = 0; j < d; ++j) {
                    dq[j] += ds * given.keys.at(b, k, h, j);
                    dk[k * d + j] += ds * given.queries.at(b, i, h, j);
                }
            }
            for (int64_t j = 0; j < d; ++j) near("grad_queries", given.grad_queries.at(b, i, h, j), dq[j]);
        }
        for (int64_t k = 0; k < L_k * d; ++k) {
            near("grad_keys", given.grad_keys.at(b, k / d, h, k % d), dk[k]);
            near("grad_values", given.grad_values.at(b, k / d, h, k % d), dv[k]);
        }
    }
}

inline AttentionSegments segments(std::initializer_list<TensorRef> parts) {
    AttentionSegments joined;
    for (const TensorRef& part : parts) joined.part[joined.count++] = part;
    return joined;
}

// Two segments of queries and keys; the second segment's keys count up to `counted` in the last sample, in none before.
inline void joint_attention_case(Verdict& verdict, DType dtype, int64_t L, int64_t L_text, int64_t counted, int64_t d) {
    constexpr int64_t B = 2, H = 2;
    Source source(static_cast<uint64_t>(L * 7 + L_text));
    const auto some = [&](int64_t length) { return source.tensor(dtype, {B, length, H, d}); };
    const auto room = [&](int64_t length) { return Held(dtype, {B, length, H, d}); };
    Held q0 = some(L), q1 = some(L_text), k0 = some(L), k1 = some(L_text), v0 = some(L), v1 = some(L_text);
    Held lengths =
        numbers(DType::int32, {B}, [&](int64_t b) { return b == B - 1 ? static_cast<double>(counted) : 0.0; });
    Held out = room(L + L_text), lse(DType::float32, {B, H, L + L_text}), grad_out = some(L + L_text);
    Held dq0 = room(L), dq1 = room(L_text), dk0 = room(L), dk1 = room(L_text), dv0 = room(L), dv1 = room(L_text);

    JointAttentionBackward args;
    JointAttention& forward = args.forward;
    forward.queries = segments({q0, q1}), forward.keys = segments({k0, k1}), forward.values = segments({v0, v1});
    forward.lengths[1] = lengths.ref();
    forward.out = out, forward.lse = lse.ref();
    forward.scale = 1 / std::sqrt(static_cast<float>(d));
    joint_attention(forward);
    args.grad_out = grad_out;
    args.grad_queries = segments({dq0, dq1}), args.grad_keys = segments({dk0, dk1});
    args.grad_values = segments({dv0, dv1});
    joint_attention_backward(args);

    const AttentionTensors given{Joined({q0, q1}),   Joined({k0, k1}),   Joined({v0, v1}),
                                 Joined({out}),      Joined({grad_out}), Joined({dq0, dq1}),
                                 Joined({dk0, dk1}), Joined({dv0, dv1}), lse};
    expect_attention(
        verdict, "joint_attention", dtype, B, H, d, static_cast<double>(forward.scale), given,
        [&](int64_t b, int64_t, int64_t, int64_t k) { return k < L || k - L < (b == B - 1 ? counted : 0); });
}

// Cubes of 64 tokens, of 1, and a ragged rest; the first query cube selects nothing.
inline void block_sparse_attention_case(Verdict& verdict, DType dtype, int64_t N, int64_t L_text, int64_t d) {
    constexpr int64_t B = 1, H = 2;
    Source source(static_cast<uint64_t>(N * 3 + L_text));
    const auto some = [&](int64_t length) { return source.tensor(dtype, {B, length, H, d}); };
    const auto room = [&](int64_t length) { return Held(dtype, {B, length, H, d}); };
    std::vector<int64_t> bounds{0, std::min<int64_t>(64, N)};
    for (const int64_t size : {int64_t{1}, int64_t{64}, int64_t{17}, int64_t{64}})
        if (bounds.back() < N) bounds.push_back(std::min(bounds.back() + size, N));
    while (bounds.back() < N) bounds.push_back(std::min(bounds.back() + 64, N));
    const auto M = static_cast<int64_t>(bounds.size()) - 1;
    Held starts = numbers(DType::int32, {M + 1}, [&](int64_t c) { return static_cast<double>(bounds[c]); });
    const int64_t words = (M + 31) / 32;
    const auto selects = [&](int64_t h, int64_t cube, int64_t k) { return cube > 0 && (cube + 2 * k + h) % 3 != 1; };
    Held selected = numbers(DType::int32, {B, H, M, words}, [&](int64_t i) {
        uint32_t word = 0;
        for (int64_t bit = 0; bit < 32; ++bit) {
            const int64_t k = i % words * 32 + bit;
            if (k < M && selects(i / (M * words) % H, i / words % M, k)) word |= 1u << bit;
        }
        return static_cast<double>(static_cast<int32_t>(word));
    });
    Held q = some(N), k = some(N), v = some(N), text_k = some(L_text), text_v = some(L_text), grad_out = some(N);
    Held out = room(N), lse(DType::float32, {B, H, N});
    Held dq = room(N), dk = room(N), dv = room(N), text_dk = room(L_text), text_dv = room(L_text);

    BlockSparseAttentionBackward args;
    BlockSparseAttention& forward = args.forward;
    forward.queries = q, forward.keys = k, forward.values = v;
    forward.query_starts = starts, forward.key_starts = starts, forward.selected = selected;
    if (L_text > 0) forward.text_keys = text_k.ref(), forward.text_values = text_v.ref();
    forward.out = out, forward.lse = lse.ref();
    forward.scale = 1 / std::sqrt(static_cast<float>(d));
    block_sparse_attention(forward);
    args.grad_out = grad_out, args.grad_queries = dq, args.grad_keys = dk, args.grad_values = dv;
    if (L_text > 0) args.grad_text_keys = text_dk.ref(), args.grad_text_values = text_dv.ref();
    block_sparse_attention_backward(args);

    const auto cube_of = [&](int64_t row) {
        return std::upper_bound(bounds.begin(), bounds.end(), row) - bounds.begin() - 1;
    };
    const AttentionTensors given{Joined({q}),           Joined({k, text_k}),   Joined({v, text_v}),
                                 Joined({out}),         Joined({grad_out}),    Joined({dq}),
                                 Joined({dk, text_dk}), Joined({dv, text_dv}), lse};
    expect_attention(
        verdict, "block_sparse_attention", dtype, B, H, d, static_cast<double>(forward.scale), given,
        [&](int64_t, int64_t h, int64_t i, int64_t key) { return key >= N || selects(h, cube_of(i), cube_of(key)); });
}

}  // namespace sky4::cases
