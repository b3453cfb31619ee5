// qk_norm_rope and its backward on the CPU: parameters brought to float32, the rows shared among threads.
//
// B batch, N tokens, H heads, d channels per head, M cubes.

#include "../qk_norm_rope.h"

#include <algorithm>
#include <vector>

#include "isa.h"
#include "parallel.h"
#include "prep_rows.h"

namespace sky4::cpu {
namespace {

// A share of fewer elements than this is done sooner than a thread wakes up.
constexpr int64_t kElementsPerThread = 32768;
// The weight's gradient is summed in this many parts, one after the other, whatever the number of threads: the same
// inputs give the same bits.
constexpr int64_t kGradientParts = 64;

RowView rows_of(const TensorRef& x) { return {x.data, x.stride[0], x.stride[1], x.stride[2]}; }

// [rows, d] or [d] in float32, each row padded with zeros.
std::vector<float> padded_rows(const std::optional<TensorRef>& x, int64_t d, int64_t padded) {
    if (!x) return {};
    const int64_t count = x->elements();
    std::vector<float> wide(static_cast<size_t>(count / d * padded));
    for (int64_t i = 0; i < count; ++i)
        wide[static_cast<size_t>(i / d * padded + i % d)] =
            x->dtype == DType::bfloat16 ? to_float(x->as<const bf16>()[i]) : x->as<const float>()[i];
    return wide;
}

// What forward and backward have in common; holds the parameters' float32 copies.
struct Prepared {
    template <typename Args>
    Prepared(const Args& args, const TensorRef& out, const std::optional<TensorRef>& pooled) {
        const TensorRef& x = args.x;
        rows.x = rows_of(x);
        rows.out = rows_of(out);
        rows.is_bf16 = x.dtype == DType::bfloat16;
        rows.N = x.shape[1], rows.H = x.shape[2], rows.d = x.shape[3];
        rows.padded = (rows.d + kPrepPad - 1) / kPrepPad * kPrepPad;
        rows.eps = args.eps;
        bias = padded_rows(args.bias, rows.d, rows.padded);
        weight = padded_rows(args.weight, rows.d, rows.padded);
        if (args.bias) rows.bias = bias.data();
        if (args.weight) {
            rows.weight = weight.data();
            rows.heads_per_norm = args.weight->ndim == 2 ? rows.H : 1;
        }
        if (args.turn) {
            rows.turn = args.turn->template as<const float>();
            rows.turn_batch = args.turn->shape[0] > 1 ? rows.N * rows.d : 0;
        }
        if (args.order) rows.order = args.order->template as<const int64_t>();
        if (args.starts && pooled) {
            rows.starts = args.starts->template as<const int32_t>();
            rows.M = args.starts->shape[0] - 1;
            rows.pooled = rows_of(*pooled);
        }
    }

    PrepRows rows;
    std::vector<float> bias, weight;
};

int64_t per_thread(int64_t elements_of_one) {
    return (kElementsPerThread + elements_of_one - 1) / std::max<int64_t>(elements_of_one, 1);
}

}  // namespace

void qk_norm_rope(const QKNormRope& args) {
    const Prepared prepared(args, args.out, args.pooled);
    const PrepRows& rows = prepared.rows;
    const KernelTable& level = kernels();
    const int64_t B = args.x.shape[0], N = rows.N, M = rows.M, threads = thread_limit(), row = rows.H * rows.d;
    const int64_t size = prep_scratch(rows);
    std::vector<float> scratch(static_cast<size_t>(threads * size));
    // Where cubes are pooled, the rows of a cube are made and pooled by the same thread, while they lie in its cache.
    // Rows before the first and after the last cube belong to none: two items more.
    const auto bound = [&](int64_t item) { return item == 0 ? 0 : item > M + 1 ? N : rows.starts[item - 1]; };
    const int64_t items = rows.starts != nullptr ? M + 2 : N;
    if (B * items * row == 0) return;
    const int64_t elements = std::max<int64_t>(N / items, 1) * row;
    parallel_for(B * items, per_thread(elements), threads, [&](int64_t share, int64_t first, int64_t last) noexcept {
        float* own = scratch.data() + share * size;
        for (int64_t i = first; i < last;) {
            const int64_t b = i / items, begin = i % items, end = std::min(begin + last - i, items);
            if (rows.starts == nullptr) level.prep_rows(rows, b, begin, end, own);
            for (int64_t item = begin; rows.starts != nullptr && item < end; ++item) {
                level.prep_rows(rows, b, bound(item), bound(item + 1), own);
                if (item > 0 && item <= M) level.pool_cubes(rows, b, item - 1, item, own);
            }
            i += end - begin;
        }
    });
}

void qk_norm_rope_backward(const QKNormRopeBackward& args) {
    const Prepared prepared(args, args.grad_out, args.grad_pooled);
    const PrepBackwardRows rows{prepared.rows, rows_of(args.grad_x)};
    const KernelTable& level = kernels();
    const int64_t total = args.x.shape[0] * rows.forward.N, threads = thread_limit();
    const int64_t size = prep_backward_scratch(rows.forward);
    const int64_t sums_size = args.grad_weight ? rows.forward.heads_per_norm * rows.forward.padded : 0;
    const int64_t parts = std::min(kGradientParts, total);
    std::vector<float> scratch(static_cast<size_t>(threads * size)), sums(static_cast<size_t>(parts * sums_size));
    const auto bound = [&](int64_t part) { return total / parts * part + std::min(part, total % parts); };
    parallel_for(parts, 1, threads, [&](int64_t share, int64_t first, int64_t last) noexcept {
        for (int64_t part = first; part < last; ++part)
            level.prep_backward_rows(rows, bound(part), bound(part + 1), scratch.data() + share * size,
                                     sums_size > 0 ? sums.data() + part * sums_size : nullptr);
    });
    if (!args.grad_weight) return;
    const int64_t d = rows.forward.d, padded = rows.forward.padded;
    float* grad_weight = args.grad_weight->as<float>();
    for (int64_t i = 0; i < rows.forward.heads_per_norm * d; ++i) {
        double sum = 0;
        for (int64_t part = 0; part < parts; ++part)
            sum += sums[static_cast<size_t>(part * sums_size + i / d * padded + i % d)];
        grad_weight[i] = static_cast<float>(sum);
    }
}

}  // namespace sky4::cpu
