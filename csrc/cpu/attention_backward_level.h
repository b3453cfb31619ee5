// One block of keys against blocks of queries, backward: the five products of flash attention's gradient.
//
//   ST = K QT;  PT = 2^(scale log2(e) ST - lse)         [keys, queries]
//   dPT = V dOT;  dST = scale PT (dPT - delta)
//   dV += PT dO;  dK += dST Q;  dQ += dS K
#pragma once

#include "attention_level.h"

namespace sky4::cpu::SKY4_LEVEL {
namespace {

template <typename T>
void lay_out(const LayOut& block) {
    const int stride = block.channels + 16;
    for (int r = 0; block.rows != nullptr && r < kBlock; ++r)
        for (int c = 0; c < block.channels; c += kLanes)
            store(block.rows + r * stride + c,
                  r < block.count ? load(static_cast<const T*>(block.tokens[r]) + c) : splat(0.0f));
    for (int first = 0; first < kBlock; first += kLanes)
        for (int c = 0; c < block.channels; c += kLanes) {
            vf square[kLanes];
            load_square<float, T>(square, block.tokens, first, block.count, c);
            transpose(square);
#pragma GCC unroll 16
            for (int i = 0; i < kLanes; ++i)
                store(block.transposed + static_cast<int64_t>(c + i) * kSquareStride + first, square[i]);
        }
}

template <typename T>
void row_products(const Delta& rows) {
    for (int r = 0; r < rows.count; ++r) {
        vf total = splat(0.0f);
        for (int c = 0; c < rows.channels; c += kLanes)
            total = fma(load(static_cast<const T*>(rows.out[r]) + c), load(static_cast<const T*>(rows.grad_out[r]) + c),
                        total);
        rows.delta[r] = sum(total);
    }
}

// to [rows, columns] = finish(A B): A and B transposed blocks, summed over channels.
template <typename Finish>
SKY4_INLINE void square_product(const float* a, const float* b, int rows, int columns, int channels,
                                const Finish& finish) {
    for (int c = 0; c < columns; c += kPanel)
        for_row_tiles(rows, [&](auto tile_rows, int first) {
            Tile<tile_rows.value> tile;
            clear(tile);
            accumulate<tile_rows.value, 1, kSquareStride>(tile, a + first, b + c, channels, kSquareStride);
#pragma GCC unroll 12
            for (int r = 0; r < tile_rows.value; ++r) {
                finish(first + r, c, tile.at[r][0]);
                finish(first + r, c + kLanes, tile.at[r][1]);
            }
        });
}

// to [rows, channels] += A B with B [depth, channels] in rows and A a square, read along its rows or its columns.
template <int kRow, int kDepth>
SKY4_INLINE void add_product(const float* a, const float* b, int rows, int depth, int channels, float* to) {
    for (int c = 0; c < channels; c += kPanel)
        for_row_tiles(rows, [&](auto tile_rows, int first) {
            Tile<tile_rows.value> tile;
            load_tile(tile, to + first * channels + c, channels);
            accumulate<tile_rows.value, kRow, kDepth>(tile, a + first * kRow, b + c, depth, channels + 16);
            store_tile(tile, to + first * channels + c, channels);
        });
}

void attend_backward(const BackwardTile& tile) {
    const int channels = tile.channels, rows = even(tile.count);
    float* const p = tile.scratch;
    float* const ds = p + kBlock * kSquareStride;
    const float scale = tile.scale;
    for (int i = 0; i < kBlock * channels; i += kLanes) {
        store(tile.grad_keys + i, splat(0.0f));
        store(tile.grad_values + i, splat(0.0f));
    }
    for (int64_t i = 0; i < tile.chosen_count; ++i) {
        const QueryBlock& block = tile.queries[tile.chosen[i]];
        const int columns = whole_panels(block.count);
        square_product(tile.key_transposed, block.transposed, rows, columns, channels, [&](int r, int c, vf s) {
            const vf exponent = fma(s, splat(scale * kLog2E), -load(block.lse + c));
            store(p + r * kSquareStride + c, exp2_of_negative(exponent));
        });
        square_product(tile.value_transposed, block.grad_transposed, rows, columns, channels, [&](int r, int c, vf dp) {
            store(ds + r * kSquareStride + c,
                  load(p + r * kSquareStride + c) * (dp - load(block.delta + c)) * splat(scale));
        });
        add_product<kSquareStride, 1>(p, block.grad_rows, rows, block.count, channels, tile.grad_values);
        add_product<kSquareStride, 1>(ds, block.rows, rows, block.count, channels, tile.grad_keys);
        add_product<1, kSquareStride>(ds, tile.key_rows, even(block.count), tile.count, channels,
                                      tile.grad_queries + tile.chosen[i] * kBlock * channels);
    }
}

}  // namespace
}  // namespace sky4::cpu::SKY4_LEVEL
