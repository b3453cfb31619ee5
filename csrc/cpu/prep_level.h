// qk_norm_rope over the vectors of one level.
//
// N tokens, H heads, d channels per head, padded = d with zeros up to a multiple of kPrepPad.
#pragma once

#include "prep_rows.h"
#include "vector.h"

namespace sky4::cpu::SKY4_LEVEL {
namespace {

// The first `count` values, any number of them; zeros after them.
template <typename T>
SKY4_INLINE vf load_first(const T* from, int64_t count) {
    if (count >= kLanes) return load(from);
    return count > 0 ? load_part(from, static_cast<int>(count)) : vf{};
}

// y = x + bias in float32, padded with zeros; returns the sum of its squares, spread over the lanes.
template <typename T>
SKY4_INLINE vf widen_head(const T* x, const float* bias, int64_t d, int64_t padded, float* y) {
    vf squares{}, more_squares{};
    int64_t j = 0;
    for (; j + 2 * kLanes <= d; j += 2 * kLanes) {
        vf a = load(x + j), b = load(x + j + kLanes);
        if (bias != nullptr) a += load(bias + j), b += load(bias + j + kLanes);
        store(y + j, a), store(y + j + kLanes, b);
        squares += a * a, more_squares += b * b;
    }
    for (; j < padded; j += kLanes) {
        vf a = load_first(x + j, d - j);
        if (bias != nullptr) a += load(bias + j);
        store(y + j, a);
        squares += a * a;
    }
    return squares + more_squares;
}

// out = the rotation of y * inverse * weight, rounded once. cosine and sine hold each pair's number twice, the sine's
// first one negative: (a, b) -> (a cos - b sin, b cos + a sin).
template <bool kTurn, typename T>
SKY4_INLINE void norm_and_turn(const float* y, float inverse, const float* weight, const float* cosine,
                               const float* sine, int64_t d, T* out) {
    const vf scale = splat(inverse);
    const auto at = [&](int64_t j) {
        vf v = load(y + j) * scale;
        if (weight != nullptr) v *= load(weight + j);
        if constexpr (kTurn) v = v * load(cosine + j) + exchanged<1>(v) * load(sine + j);
        return v;
    };
    int64_t j = 0;
    for (; j + kLanes <= d; j += kLanes) store(out + j, at(j));
    if (j < d) store_part(out + j, at(j), d - j);
}

// turn [d / 2, 2] -> each cosine twice, each sine twice with the pair's first negated.
SKY4_INLINE void spread_turn(const float* turn, int64_t d, float* cosine, float* sine) {
    vf sign;
    for (int i = 0; i < kLanes; ++i) sign[i] = i % 2 == 0 ? -1.0f : 1.0f;
    for (int64_t j = 0; j < d; j += kLanes) {
        const vf pairs = load_first(turn + j, d - j);
        store(cosine + j, even_doubled(pairs));
        store(sine + j, odd_doubled(pairs) * sign);
    }
}

template <bool kTurn, typename T>
void prep_rows_of(const PrepRows& rows, int64_t b, int64_t first, int64_t last, float* scratch) {
    const int64_t d = rows.d, padded = rows.padded, group = rows.heads_per_norm;
    const bool normed = rows.weight != nullptr;
    const auto count = static_cast<float>(group * d);
    float *y = scratch, *cosine = y + rows.H * padded, *sine = cosine + padded, *inverse = sine + padded;
    for (int64_t row = first; row < last; ++row) {
        const int64_t token = rows.order != nullptr ? rows.order[row] : row;
        const T* x = static_cast<const T*>(rows.x.data) + b * rows.x.batch + token * rows.x.token;
        T* out = static_cast<T*>(rows.out.data) + b * rows.out.batch + row * rows.out.token;
        if constexpr (kTurn) spread_turn(rows.turn + b * rows.turn_batch + token * d, d, cosine, sine);
        // All heads are widened before the first is finished: their square roots then wait for none of the others.
        vf squares{};
        for (int64_t h = 0; h < rows.H; ++h) {
            const float* bias = rows.bias != nullptr ? rows.bias + h * padded : nullptr;
            squares += widen_head(x + h * rows.x.head, bias, d, padded, y + h * padded);
            if (!normed || (h + 1) % group != 0) continue;
            const float mean = sum(squares) / count;
            inverse[h / group] = 1.0f / __builtin_sqrtf(mean + rows.eps);
            squares = vf{};
        }
        for (int64_t h = 0; h < rows.H; ++h)
            norm_and_turn<kTurn>(y + h * padded, normed ? inverse[h / group] : 1.0f,
                                 normed ? rows.weight + h % group * padded : nullptr, cosine, sine, d,
                                 out + h * rows.out.head);
    }
}

// Rows first .. last - 1 of sample b of `out`; scratch as prep_scratch tells.
void prep_rows(const PrepRows& rows, int64_t b, int64_t first, int64_t last, float* scratch) {
    if (rows.is_bf16)
        (rows.turn != nullptr ? prep_rows_of<true, bf16> : prep_rows_of<false, bf16>)(rows, b, first, last, scratch);
    else
        (rows.turn != nullptr ? prep_rows_of<true, float> : prep_rows_of<false, float>)(rows, b, first, last, scratch);
}

template <typename T>
void pool_cubes_of(const PrepRows& rows, int64_t b, int64_t first, int64_t last, float* sums) {
    const int64_t d = rows.d;
    for (int64_t cube = first; cube < last; ++cube) {
        const int64_t begin = rows.starts[cube], end = rows.starts[cube + 1];
        const vf share = splat(end > begin ? 1.0f / static_cast<float>(end - begin) : 0.0f);
        for (int64_t h = 0; h < rows.H; ++h) {
            const T* row = static_cast<const T*>(rows.out.data) + b * rows.out.batch + h * rows.out.head;
            T* mean = static_cast<T*>(rows.pooled.data) + b * rows.pooled.batch + cube * rows.pooled.token +
                      h * rows.pooled.head;
            for (int64_t j = 0; j < rows.padded; j += kLanes) store(sums + j, vf{});
            for (int64_t i = begin; i < end; ++i) {
                const T* in = row + i * rows.out.token;
                int64_t j = 0;
                for (; j + kLanes <= d; j += kLanes) store(sums + j, load(sums + j) + load(in + j));
                if (j < d) store(sums + j, load(sums + j) + load_part(in + j, d - j));
            }
            int64_t j = 0;
            for (; j + kLanes <= d; j += kLanes) store(mean + j, load(sums + j) * share);
            if (j < d) store_part(mean + j, load(sums + j) * share, d - j);
        }
    }
}

// Means of cubes first .. last - 1 of sample b, of the rows of `out` as they were rounded.
void pool_cubes(const PrepRows& rows, int64_t b, int64_t first, int64_t last, float* scratch) {
    (rows.is_bf16 ? pool_cubes_of<bf16> : pool_cubes_of<float>)(rows, b, first, last, scratch);
}

}  // namespace
}  // namespace sky4::cpu::SKY4_LEVEL
