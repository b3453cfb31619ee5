// Where elements lie: in a swizzled tile of shared memory, and over the lanes of a warp in mma.sync's fragments.
//
// A tile is rows of kDim 16-bit channels, cut into chunks of 8 channels (16 bytes, the unit of cp.async and of a row of
// ldmatrix). m16n8k16 fragments, with g = lane / 4 and t = lane % 4:
//   A [16 x 16]  a0 (g, 2t) a1 (g + 8, 2t) a2 (g, 2t + 8) a3 (g + 8, 2t + 8), each with the column after it
//   B [16 x 8]   b0 (2t, g) b1 (2t + 8, g), each with the row below
//   C [16 x 8]   c0 c1 (g, 2t) and the column after it, c2 c3 the same of row g + 8
#pragma once

#include "primitives.h"

namespace sky4::cuda::sm80 {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kStrip = 16;       // rows of one mma, owned by one warp
constexpr int kChunkBytes = 16;  // of one chunk of 8 channels

template <int kDim>
struct TileLayout {
    static_assert(kDim % 32 == 0, "the swizzle permutes groups of four chunks");
    static constexpr int kChunks = kDim / 8;
    static constexpr int kRowBytes = kDim * 2;

    // The eight rows that one ldmatrix phase reads at one chunk must fall on the eight 16-byte columns of the banks.
    // Rows of a multiple of 128 bytes all start at column 0: three row bits permute the chunk. Otherwise (64 and 192
    // bytes) odd rows start at column 4 already and the two bits above do the rest.
    __host__ __device__ static constexpr int swizzle(int row) {
        return kRowBytes % 128 == 0 ? row & 7 : (row >> 1) & 3;
    }

    __host__ __device__ static constexpr int offset(int row, int chunk) {
        return row * kRowBytes + ((chunk ^ swizzle(row)) * kChunkBytes);
    }
};

// The row and chunk, within a 16x16 block, whose address a lane hands to ldmatrix.
struct BlockPlace {
    int row, chunk;
};

// Matrices in the order (rows 0-7, chunk 0), (rows 8-15, chunk 0), (0-7, 1), (8-15, 1): plain it gives A of a block
// whose rows are A's rows; transposed it gives B of two n-tiles of a block whose rows are k.
__host__ __device__ constexpr BlockPlace rows_first(int lane) { return {lane & 15, lane >> 4}; }

// Order (0-7, 0), (0-7, 1), (8-15, 0), (8-15, 1): plain it gives B of two n-tiles of a block whose rows are n.
__host__ __device__ constexpr BlockPlace chunks_first(int lane) {
    return {(lane & 7) + ((lane >> 4) << 3), (lane >> 3) & 1};
}

// Row within the strip of element i of C, and its column within the n-tile.
__host__ __device__ constexpr int c_row(int lane, int i) { return (lane >> 2) + ((i >> 1) << 3); }
__host__ __device__ constexpr int c_column(int lane, int i) { return ((lane & 3) << 1) + (i & 1); }

}  // namespace sky4::cuda::sm80
