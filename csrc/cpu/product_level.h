// The product of a few rows with a panel of columns, held in registers: what every matrix product here is made of.
//
// A word is one float32, or two bfloat16 that lie one after the other along the summed axis.
//   A  row r, word k at a[r * kRow + k * kDepth]
//   B  a panel: word k of the columns 0 .. kPanel - 1 from b[k * b_stride] on
#pragma once

#include "vector.h"

namespace sky4::cpu::SKY4_LEVEL {
namespace {

// Two vectors of columns; as many rows as registers allow besides two of B and one of A: 12 of 32, or 6 of 16.
constexpr int kPanel = 2 * kLanes;
#if SKY4_LANES == 16
constexpr int kTileRows = 12;
#else
constexpr int kTileRows = 6;
#endif

struct Pair {
    uint32_t bits;  // two bfloat16, the first in the lower half
};

template <typename T>
struct WordOf {
    using type = float;
};
#if SKY4_BF16_DOT
template <>
struct WordOf<bf16> {
    using type = Pair;
};
#endif

SKY4_INLINE vf load_word(const float* from) { return load(from); }
SKY4_INLINE vu load_word(const Pair* from) { return load_as<vu>(from); }
SKY4_INLINE vf splat_word(float x) { return splat(x); }
SKY4_INLINE vu splat_word(Pair x) { return broadcast<vu>(x.bits); }

SKY4_INLINE vf multiply_add(vf a, vf b, vf sum) { return fma(a, b, sum); }
SKY4_INLINE vf multiply_add(vu a, vu b, vf sum) {
#if SKY4_BF16_DOT && defined(__AVX512BF16__)
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
#else
    constexpr uint32_t kUpper = 0xffff0000u;
    sum += reinterpret_cast<vf>(a << 16) * reinterpret_cast<vf>(b << 16);
    return sum + reinterpret_cast<vf>(a & kUpper) * reinterpret_cast<vf>(b & kUpper);
#endif
}

template <int R>
struct Tile {
    vf at[R][2];
};

template <int R, int kRow, int kDepth, typename Word>
SKY4_INLINE void accumulate(Tile<R>& sum, const Word* a, const Word* b, int depth, int b_stride = kPanel) {
    for (int k = 0; k < depth; ++k, a += kDepth, b += b_stride) {
        const auto left = load_word(b), right = load_word(b + kLanes);
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r) {
            const auto x = splat_word(a[r * kRow]);
            sum.at[r][0] = multiply_add(x, left, sum.at[r][0]);
            sum.at[r][1] = multiply_add(x, right, sum.at[r][1]);
        }
    }
}

template <int R>
SKY4_INLINE void clear(Tile<R>& tile) {
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) tile.at[r][0] = tile.at[r][1] = splat(0.0f);
}

template <int R>
SKY4_INLINE void load_tile(Tile<R>& tile, const float* from, int stride) {
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
        tile.at[r][0] = load(from + r * stride);
        tile.at[r][1] = load(from + r * stride + kLanes);
    }
}

template <int R>
SKY4_INLINE void store_tile(const Tile<R>& tile, float* to, int stride) {
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
        store(to + r * stride, tile.at[r][0]);
        store(to + r * stride + kLanes, tile.at[r][1]);
    }
}

template <int N>
struct Rows {
    static constexpr int value = N;
};

// body(Rows<R>{}, first) over `rows` rows (an even number), in tiles of as many as there are, down to two.
template <typename Body>
SKY4_INLINE void for_row_tiles(int rows, const Body& body) {
    int first = 0;
    for (; rows - first >= kTileRows; first += kTileRows) body(Rows<kTileRows>{}, first);
    if (kTileRows > 6 && rows - first >= 6) body(Rows<6>{}, first), first += 6;
    if (rows - first >= 4) body(Rows<4>{}, first), first += 4;
    if (rows - first >= 2) body(Rows<2>{}, first);
}

SKY4_INLINE int whole_panels(int columns) { return (columns + kPanel - 1) / kPanel * kPanel; }
SKY4_INLINE int even(int rows) { return (rows + 1) & ~1; }

}  // namespace
}  // namespace sky4::cpu::SKY4_LEVEL
