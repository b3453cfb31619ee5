// What one warp does: products of 16-row strips with tiles in shared memory, in mma.sync, accumulated in float32.
//
// A warp owns kStrips strips of 16 rows. Sums are kept as C fragments [kStrips][columns / 8][4].
#pragma once

#include "layout.h"

namespace sky4::cuda::sm80 {

template <int kStrips, int kColumns>
using Sums = float[kStrips][kColumns / 8][4];

template <int kStrips, int kTiles>
__device__ __forceinline__ void clear(float (&sums)[kStrips][kTiles][4]) {
#pragma unroll
    for (int s = 0; s < kStrips; ++s)
#pragma unroll
        for (int n = 0; n < kTiles; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) sums[s][n][i] = 0.0f;
}

// A tile in shared memory, read in blocks of 16x16 whose corner is (row, channel).
template <int kDim>
class SharedTile {
public:
    using Layout = TileLayout<kDim>;

    // Blocks begin at multiples of 16 rows, so that a lane's swizzle is the same in all of them.
    __device__ __forceinline__ explicit SharedTile(SharedAddress base) : base_(base) {
        const int lane = threadIdx.x % 32;
        const BlockPlace a = rows_first(lane), b = chunks_first(lane);
        rows_first_ = base + a.row * Layout::kRowBytes;
        rows_first_chunk_ = a.chunk ^ Layout::swizzle(a.row);
        chunks_first_ = base + b.row * Layout::kRowBytes;
        chunks_first_chunk_ = b.chunk ^ Layout::swizzle(b.row);
    }

    __device__ __forceinline__ SharedAddress address(int row, int chunk) const {
        return base_ + Layout::offset(row, chunk);
    }

    // A, the block's rows being A's.
    __device__ __forceinline__ void load_a(uint32_t (&a)[4], int row, int channel) const {
        ldmatrix(a, rows_first_ + row * Layout::kRowBytes + (rows_first_chunk_ ^ (channel / 8)) * kChunkBytes);
    }

    // B of two n-tiles (b[0], b[1] and b[2], b[3]), the block's rows being n.
    __device__ __forceinline__ void load_b(uint32_t (&b)[4], int row, int channel) const {
        ldmatrix(b, chunks_first_ + row * Layout::kRowBytes + (chunks_first_chunk_ ^ (channel / 8)) * kChunkBytes);
    }

    // B of two n-tiles, the block's rows being k and its channels n.
    __device__ __forceinline__ void load_b_transposed(uint32_t (&b)[4], int row, int channel) const {
        ldmatrix_transposed(b,
                            rows_first_ + row * Layout::kRowBytes + (rows_first_chunk_ ^ (channel / 8)) * kChunkBytes);
    }

private:
    SharedAddress base_, rows_first_, chunks_first_;
    int rows_first_chunk_, chunks_first_chunk_;
};

// The left operand of scores: this warp's strips of a tile, read again at every step ...
template <int kDim>
struct RowsInShared {
    SharedTile<kDim> tile;
    int first_row;

    __device__ __forceinline__ void load(uint32_t (&a)[4], int strip, int channel) const {
        tile.load_a(a, first_row + strip * kStrip, channel);
    }
};

// ... or held in registers.
template <int kStrips, int kDim>
struct RowsInRegisters {
    uint32_t a[kStrips][kDim / 16][4];

    __device__ __forceinline__ explicit RowsInRegisters(const RowsInShared<kDim>& rows) {
#pragma unroll
        for (int s = 0; s < kStrips; ++s)
#pragma unroll
            for (int k = 0; k < kDim / 16; ++k) rows.load(a[s][k], s, k * 16);
    }

    __device__ __forceinline__ void load(uint32_t (&out)[4], int strip, int channel) const {
#pragma unroll
        for (int i = 0; i < 4; ++i) out[i] = a[strip][channel / 16][i];
    }
};

// scores[rows, columns] += left[rows, d] right[columns, d]T
template <typename T, int kDim, int kStrips, int kTiles, typename Left>
__device__ __forceinline__ void add_scores(float (&scores)[kStrips][kTiles][4], const Left& left,
                                           const SharedTile<kDim>& right) {
#pragma unroll
    for (int k = 0; k < kDim; k += 16) {
        uint32_t a[kStrips][4];
#pragma unroll
        for (int s = 0; s < kStrips; ++s) left.load(a[s], s, k);
#pragma unroll
        for (int n = 0; n < kTiles; n += 2) {
            uint32_t b[4];
            right.load_b(b, n * 8, k);
#pragma unroll
            for (int s = 0; s < kStrips; ++s) {
                mma<T>(scores[s][n], a[s], b[0], b[1]);
                mma<T>(scores[s][n + 1], a[s], b[2], b[3]);
            }
        }
    }
}

// sums[rows, d] += weights[rows, k] right[k, d]. The C fragments of two neighbouring n-tiles are, rounded, the A
// fragment of 16 columns: the weights never leave the registers.
template <typename T, int kDim, int kStrips, int kTiles>
__device__ __forceinline__ void add_weighted(Sums<kStrips, kDim>& sums, const float (&weights)[kStrips][kTiles][4],
                                             const SharedTile<kDim>& right) {
#pragma unroll
    for (int k = 0; k < kTiles; k += 2) {
        uint32_t a[kStrips][4];
#pragma unroll
        for (int s = 0; s < kStrips; ++s) {
            a[s][0] = pack<T>(weights[s][k][0], weights[s][k][1]);
            a[s][1] = pack<T>(weights[s][k][2], weights[s][k][3]);
            a[s][2] = pack<T>(weights[s][k + 1][0], weights[s][k + 1][1]);
            a[s][3] = pack<T>(weights[s][k + 1][2], weights[s][k + 1][3]);
        }
#pragma unroll
        for (int n = 0; n < kDim / 8; n += 2) {
            uint32_t b[4];
            right.load_b_transposed(b, k * 8, n * 8);
#pragma unroll
            for (int s = 0; s < kStrips; ++s) {
                mma<T>(sums[s][n], a[s], b[0], b[1]);
                mma<T>(sums[s][n + 1], a[s], b[2], b[3]);
            }
        }
    }
}

}  // namespace sky4::cuda::sm80
