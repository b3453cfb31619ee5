// The backward of qk_norm_rope over the vectors of one level.
//
// v = x + bias, n = v / sqrt(mean(v v) + eps), out = turned(n weight), so with g = grad_out turned back:
//     grad_weight = sum(g n),   grad_x = (g weight - n mean(g weight n)) / sqrt(mean(v v) + eps).
#pragma once

#include "prep_level.h"

namespace sky4::cpu::SKY4_LEVEL {
namespace {

// g = grad [d] (and share * pooled_grad [d], where there is one), turned back, padded with zeros.
template <typename T>
SKY4_INLINE void turn_back(const T* grad, const T* pooled_grad, float share, const float* cosine, const float* sine,
                           int64_t d, int64_t padded, float* g) {
    for (int64_t j = 0; j < padded; j += kLanes) {
        const auto part = [&](const T* from) { return load_first(from + j, d - j); };
        vf v = part(grad);
        if (pooled_grad != nullptr) v += part(pooled_grad) * splat(share);
        if (cosine != nullptr) v = v * load(cosine + j) - exchanged<1>(v) * load(sine + j);
        store(g + j, v);
    }
}

// From v and g of one head: v becomes n, g becomes g weight, sums gets g n; returns the lanes of sum(g weight n).
SKY4_INLINE vf weigh(float* v, float* g, float inverse, const float* weight, int64_t padded, float* sums) {
    vf products{};
    for (int64_t j = 0; j < padded; j += kLanes) {
        const vf n = load(v + j) * splat(inverse), grad = load(g + j), weighted = grad * load(weight + j);
        store(v + j, n), store(g + j, weighted);
        products += weighted * n;
        if (sums != nullptr) store(sums + j, load(sums + j) + grad * n);
    }
    return products;
}

// grad_x = (g - n mean) inverse, rounded once.
template <typename T>
SKY4_INLINE void finish_backward(const float* n, const float* g, float mean, float inverse, int64_t d, T* grad_x) {
    const auto at = [&](int64_t j) { return (load(g + j) - load(n + j) * splat(mean)) * splat(inverse); };
    int64_t j = 0;
    for (; j + kLanes <= d; j += kLanes) store(grad_x + j, at(j));
    if (j < d) store_part(grad_x + j, at(j), d - j);
}

template <typename T>
void prep_backward_rows_of(const PrepBackwardRows& rows, int64_t first, int64_t last, float* scratch, float* sums) {
    const PrepRows& forward = rows.forward;
    const int64_t d = forward.d, padded = forward.padded, group = forward.heads_per_norm;
    float *v = scratch, *g = v + group * padded, *cosine = nullptr, *sine = nullptr;
    if (forward.turn != nullptr) cosine = g + group * padded, sine = cosine + padded;
    const RowView& pooled = forward.pooled;
    int64_t cube = -1, b = -1;
    for (int64_t i = first; i < last; ++i) {
        if (i / forward.N != b) b = i / forward.N, cube = -1;
        const int64_t row = i % forward.N, token = forward.order != nullptr ? forward.order[row] : row;
        const T* x = static_cast<const T*>(forward.x.data) + b * forward.x.batch + token * forward.x.token;
        const T* grad = static_cast<const T*>(forward.out.data) + b * forward.out.batch + row * forward.out.token;
        T* grad_x = static_cast<T*>(rows.grad_x.data) + b * rows.grad_x.batch + token * rows.grad_x.token;
        const T* pooled_grad = nullptr;
        float share = 0;
        if (pooled.data != nullptr) {
            while (cube + 1 < forward.M && row >= forward.starts[cube + 1]) ++cube;
            if (cube >= 0 && row < forward.starts[cube + 1]) {
                pooled_grad = static_cast<const T*>(pooled.data) + b * pooled.batch + cube * pooled.token;
                share = 1.0f / static_cast<float>(forward.starts[cube + 1] - forward.starts[cube]);
            }
        }
        if (cosine != nullptr) spread_turn(forward.turn + b * forward.turn_batch + token * d, d, cosine, sine);
        for (int64_t h = 0; h < forward.H; h += group) {
            vf squares{}, products{};
            for (int64_t k = 0; k < group; ++k) {
                const int64_t head = h + k;
                const float* bias = forward.bias != nullptr ? forward.bias + head * padded : nullptr;
                squares += widen_head(x + head * forward.x.head, bias, d, padded, v + k * padded);
                turn_back(grad + head * forward.out.head,
                          pooled_grad != nullptr ? pooled_grad + head * pooled.head : nullptr, share, cosine, sine, d,
                          padded, g + k * padded);
            }
            float inverse = 1.0f, mean = 0.0f;
            if (forward.weight != nullptr) {
                const auto count = static_cast<float>(group * d);
                inverse = 1.0f / __builtin_sqrtf(sum(squares) / count + forward.eps);
                for (int64_t k = 0; k < group; ++k)
                    products += weigh(v + k * padded, g + k * padded, inverse, forward.weight + k * padded, padded,
                                      sums != nullptr ? sums + k * padded : nullptr);
                mean = sum(products) / count;
            }
            for (int64_t k = 0; k < group; ++k)
                finish_backward(v + k * padded, g + k * padded, mean, inverse, d, grad_x + (h + k) * rows.grad_x.head);
        }
    }
}

// Rows first .. last - 1 of all B * N; the sums of grad_weight are added to `sums` [heads_per_norm, padded] or dropped.
void prep_backward_rows(const PrepBackwardRows& rows, int64_t first, int64_t last, float* scratch, float* sums) {
    (rows.forward.is_bf16 ? prep_backward_rows_of<bf16> : prep_backward_rows_of<float>)(rows, first, last, scratch,
                                                                                        sums);
}

}  // namespace
}  // namespace sky4::cpu::SKY4_LEVEL
