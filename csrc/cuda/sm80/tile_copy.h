// Tiles between global and shared memory, 16 bytes at a time.
#pragma once

#include "tiles.h"
#include "warp_math.h"

namespace sky4::cuda::sm80 {

// Starts the copy of tile.rows rows of `view`; the rest of the kRows becomes zero, so that what is masked or multiplied
// by zero later is a number.
//
// Eight (or four) neighbouring threads take neighbouring chunks of a row. All rows of a thread are alike to the
// swizzle, which leaves one address on either side and constant steps from there.
template <int kDim, int kRows>
__device__ __forceinline__ void copy_tile_async(SharedAddress to, const View& view, int batch, int head, Tile tile) {
    using Layout = TileLayout<kDim>;
    constexpr int kAcross = Layout::kChunks % 8 == 0 ? 8 : 4, kStep = kThreads / kAcross;
    static_assert(kRows % kStep == 0 && kStep % 8 == 0, "every thread copies as many rows, alike to the swizzle");
    const int row = threadIdx.x / kAcross, chunk = threadIdx.x % kAcross;
    const uint16_t* from = view.at(batch, head, tile.row) + chunk * 8;
    to += Layout::offset(row, chunk);
#pragma unroll
    for (int i = 0; i < kRows; i += kStep) {
        const bool there = row + i < tile.rows;
        const uint16_t* from_row = from + (there ? (row + i) * view.row : 0);
#pragma unroll
        for (int j = 0; j < Layout::kChunks; j += kAcross)
            copy_async_16(to + i * Layout::kRowBytes + j * kChunkBytes, from_row + j * 8, there ? 16 : 0);
    }
}

// Writes this warp's strip of `sums` as rows first_row .. first_row + 15 of a tile whose row 0 is tile.row of `view`:
// times factor[half] (rows g and g + 8 of the strip), zero from row `zero_from` on, nothing from tile.rows on. Goes
// through those rows of `stage` in shared memory for whole 16-byte stores.
template <typename T, int kDim>
__device__ __forceinline__ void store_strip(const float (&sums)[kDim / 8][4], const float (&factor)[2], int zero_from,
                                            const SharedTile<kDim>& stage, int first_row, const View& view, int batch,
                                            int head, Tile tile) {
    using Layout = TileLayout<kDim>;
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int row = first_row + c_row(lane, 2 * half);
        const bool zero = row >= zero_from;
#pragma unroll
        for (int n = 0; n < kDim / 8; ++n) {
            const float low = zero ? 0.0f : sums[n][2 * half] * factor[half];
            const float high = zero ? 0.0f : sums[n][2 * half + 1] * factor[half];
            store_shared(stage.address(row, n) + 2 * c_column(lane, 0), pack<T>(low, high));
        }
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kStrip * Layout::kChunks / 32; ++i) {
        const int place = lane + i * 32;
        const int row = first_row + place / Layout::kChunks, chunk = place % Layout::kChunks;
        if (row < tile.rows)
            *reinterpret_cast<uint4*>(view.at(batch, head, tile.row + row) + chunk * 8) =
                load_shared_16(stage.address(row, chunk));
    }
}

}  // namespace sky4::cuda::sm80
