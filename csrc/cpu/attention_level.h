// One tile of queries against a list of packed key blocks: flash attention.
//
//   for every step of at most 256 keys:
//       S = scale log2(e) Q KT                              [rows, keys]   in base 2 from here on
//       m' = max(m, rowmax S);  P = 2^(S - m');  a = 2^(m - m')
//       l = a l + rowsum P;  O = a O + P V
//   out = O / l,  lse = (m + log2 l) ln 2
//
// Q is laid out row by row, S by rows of kScoreStride; where products are summed in pairs, P is rounded to bfloat16 in
// place, at the front of its row of S.
#pragma once

#include "attention_parts.h"
#include "pack_level.h"
#include "product_level.h"

namespace sky4::cpu::SKY4_LEVEL {
namespace {

constexpr float kLog2E = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

// 2^x for x <= 0, within 1.5 units of the last place; 0 below 2^-126. A NaN stays one.
// x = n + f with f in [-1/2, 1/2]: a polynomial of 2^f (minimax, relative error 2^-23.5, exact at 0) times 2^n.
SKY4_INLINE vf exp2_of_negative(vf x) {
    x = max(splat(-127.0f), x);            // 2^-127 has an all-zero exponent field: the product below becomes 0
    constexpr float kShift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number, held in the lowest bits
    const vf shifted = x + kShift;
    const vf f = x - (shifted - kShift);
    vf p = fma(splat(0.0013274633f), f, splat(0.009671962f));
    p = fma(p, f, splat(0.055506784f));
    p = fma(p, f, splat(0.24022235f));
    p = fma(p, f, splat(0.69314706f));
    p = fma(p, f, splat(1.0f));
    const vi power = (reinterpret_cast<vi>(shifted) << 23) + (127 << 23);
    return p * reinterpret_cast<vf>(power);
}

// The scores of `rows` queries with one block, `columns` of them: a whole number of panels.
// Not inlined: among the variables of `attend`, GCC 12 keeps a vector of `keys` in memory instead of a register.
template <typename W>
__attribute__((noinline)) void scores(const W* q, int rows, const W* keys, int words, int columns, float scale,
                                      float* s) {
    for (int c = 0; c < columns; c += kPanel) {
        const W* panel = keys + static_cast<int64_t>(c) * words;
        for_row_tiles(rows, [&](auto tile_rows, int first) {
            Tile<tile_rows.value> tile;
            clear(tile);
            accumulate<tile_rows.value, kRowStride, 1>(tile, q + first * kRowStride, panel, words);
#pragma GCC unroll 12
            for (auto& row : tile.at) row[0] *= scale, row[1] *= scale;
            store_tile(tile, s + first * kScoreStride + c, kScoreStride);
        });
    }
}

SKY4_INLINE void store_probabilities(float* row, const float*, int c, vf p) { store(row + c, p); }
SKY4_INLINE void store_probabilities(float* row, const Pair*, int c, vf p) {
    store(reinterpret_cast<bf16*>(row) + c, p);
}

// One row of S becomes P; returns a. `m` and `l` are the row's running maximum and sum.
template <typename W>
SKY4_INLINE float softmax_row(float* s, int columns, float& m, float& l) {
    vf top[2] = {splat(m), splat(m)};
    for (int c = 0; c < columns; c += kPanel) {
        top[0] = max(load(s + c), top[0]);
        top[1] = max(load(s + c + kLanes), top[1]);
    }
    const float next = max(max(top[0], top[1]));
    const float anchor = next == -__builtin_inff() ? 0.0f : next;  // -inf - -inf is no number
    vf total[2] = {splat(0.0f), splat(0.0f)};
    for (int c = 0; c < columns; c += kPanel) {
        const vf left = exp2_of_negative(load(s + c) - anchor);
        const vf right = exp2_of_negative(load(s + c + kLanes) - anchor);
        total[0] += left;
        total[1] += right;
        store_probabilities(s, static_cast<const W*>(nullptr), c, left);
        store_probabilities(s, static_cast<const W*>(nullptr), c + kLanes, right);
    }
    const float shrink = exp2_of_negative(splat(m - anchor))[0];
    l = l * shrink + sum(total[0] + total[1]);
    m = next;
    return shrink;
}

template <typename T>
void attend(const AttendTile& tile) {
    using W = Word<T>;
    constexpr int kPair = kPerWord<W>;
    const int rows = even(tile.count), channels = tile.channels, words = channels / kPair;
    float* const s = tile.scratch;
    float* const o = s + kBlock * kScoreStride;
    W* const q = reinterpret_cast<W*>(o + kBlock * kRowStride);
    float* const m = o + 2 * kBlock * kRowStride;
    float *const l = m + kBlock, *const shrink = l + kBlock;

    for (int r = 0; r < rows; ++r) {
        for (int i = 0; i < words; i += kLanes)
            store_as(q + r * kRowStride + i,
                     r < tile.count ? row_words(W{}, static_cast<const T*>(tile.queries[r]), i) : splat(0.0f));
        m[r] = -__builtin_inff();
        l[r] = 0.0f;
    }

    int64_t begin = 0, end = 0;
    for (; begin < tile.block_count; begin = end) {
        int columns = 0;
        for (; end < tile.block_count; ++end) {
            const KeyBlock& block = tile.blocks[end];
            const int width = whole_panels(block.count);
            if (columns + width > kStepKeys) break;
            scores(q, rows, static_cast<const W*>(block.keys), words, width, tile.scale * kLog2E, s + columns);
            for (int c = block.count; c < width; ++c)
                for (int r = 0; r < rows; ++r) s[r * kScoreStride + columns + c] = -__builtin_inff();
            columns += width;
        }
        for (int r = 0; r < rows; ++r) shrink[r] = softmax_row<W>(s + r * kScoreStride, columns, m[r], l[r]);
        for (int c = 0; c < channels; c += kPanel)
            for_row_tiles(rows, [&](auto tile_rows, int first) {
                constexpr int kRows = tile_rows.value;
                Tile<kRows> sum;
                if (begin == 0) {
                    clear(sum);
                } else {
                    load_tile(sum, o + first * kRowStride + c, kRowStride);
#pragma GCC unroll 12
                    for (int r = 0; r < kRows; ++r) {
                        sum.at[r][0] *= shrink[first + r];
                        sum.at[r][1] *= shrink[first + r];
                    }
                }
                const W* p = reinterpret_cast<const W*>(s + first * kScoreStride);
                for (int64_t i = begin; i < end; ++i) {
                    const KeyBlock& block = tile.blocks[i];
                    accumulate<kRows, kScoreStride, 1>(
                        sum, p, static_cast<const W*>(block.values) + static_cast<int64_t>(c) * (kBlock / kPair),
                        (block.count + kPair - 1) / kPair);
                    p += whole_panels(block.count) / kPair;
                }
                store_tile(sum, o + first * kRowStride + c, kRowStride);
            });
    }

    for (int r = 0; r < tile.count; ++r) {
        const bool empty = l[r] == 0.0f;
        const float inverse = empty ? 0.0f : 1.0f / l[r];
        tile.lse[r] = empty ? -__builtin_inff() : m[r] * kLn2 + __builtin_logf(l[r]);
        for (int c = 0; c < channels; c += kLanes) {
            const vf value = tile.block_count == 0 ? splat(0.0f) : load(o + r * kRowStride + c) * inverse;
            if (tile.partial)
                store(static_cast<float*>(tile.out[r]) + c, value);
            else
                store(static_cast<T*>(tile.out[r]) + c, value);
        }
    }
}

}  // namespace
}  // namespace sky4::cpu::SKY4_LEVEL
