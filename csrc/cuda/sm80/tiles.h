// Which tile a block owns and which tiles it walks: the schedule of every kernel here, for device and host tests.
#pragma once

#include "params.h"

namespace sky4::cuda::sm80 {

// Rows row .. row + rows - 1 of one segment; no rows means there is no tile.
struct Tile {
    int segment, row, rows;
};

__host__ __device__ constexpr int tiles_of(int length, int tile) { return (length + tile - 1) / tile; }

// First of `total` tiles that part `part` of `parts` does; the next part's first is its end.
__host__ __device__ constexpr int split_begin(int total, int parts, int part) {
    return static_cast<int>(static_cast<int64_t>(total) * part / parts);
}

// Tiles are fastest over the grid, then splits, heads, batch: blocks that run together share a head's keys in L2.
struct BlockPlaceInGrid {
    int tile, split, head, batch;
};

__host__ __device__ inline BlockPlaceInGrid place_in_grid(const AttentionParams& p, unsigned block) {
    const unsigned tiles = p.tiles, splits = p.splits, heads = p.heads;
    const unsigned rest = block / tiles;
    return {static_cast<int>(block % tiles), static_cast<int>(rest % splits), static_cast<int>(rest / splits % heads),
            static_cast<int>(rest / splits / heads)};
}

// Rows of cube `cube`; never more than a full cube, nor past the tensor, whatever `starts` says.
__host__ __device__ inline Tile cube_rows(const Axis& axis, int cube) {
    const int row = axis.starts[cube], limit = axis.length[0] - row;
    int rows = axis.starts[cube + 1] - row;
    rows = rows < kCube ? rows : kCube;
    rows = rows < limit ? rows : limit;
    return {0, row, rows > 0 ? rows : 0};
}

// Tile number `index` of an axis that the grid runs over.
template <bool kSparse, int kRows>
__host__ __device__ inline Tile own_tile(const Axis& axis, int index) {
    if (kSparse) return cube_rows(axis, index);
    int segment = 0;
    while (segment + 1 < axis.count && index >= axis.first_tile[segment + 1]) ++segment;
    const int row = (index - axis.first_tile[segment]) * kRows, left = axis.length[segment] - row;
    return {segment, row, left < kRows ? left : kRows};
}

// Goes over an axis in tiles of at most kRows: segment after segment (dense), or the selected cubes in ascending order
// and then the second segment (block-sparse). A tile straddles neither.
template <bool kSparse, int kRows>
class Walk {
public:
    // `selected` is the owner's row of bits, unused when dense.
    __host__ __device__ Walk(const Axis& axis, int batch, const uint32_t* selected, int words)
        : axis_(axis), selected_(selected), batch_(batch), words_(kSparse ? words : 0) {}

    // Dense: only tiles begin .. end - 1 of those there are.
    __host__ __device__ void restrict_to_split(int splits, int split) {
        int total = 0;
        for (int s = 0; s < axis_.count; ++s) total += tiles_of(axis_.counted(s, batch_), kRows);
        int begin = split_begin(total, splits, split);
        left_ = split_begin(total, splits, split + 1) - begin;
        for (int s = 0; s < axis_.count; ++s) {
            const int length = axis_.counted(s, batch_), tiles = tiles_of(length, kRows);
            if (begin < tiles) {
                segment_ = s;
                row_ = begin * kRows;
                end_ = length;
                return;
            }
            begin -= tiles;
        }
    }

    __host__ __device__ Tile next() {
        while (row_ >= end_)
            if (!next_range()) return {0, 0, 0};
        if (left_ == 0) return {0, 0, 0};
        --left_;
        const int left = end_ - row_;
        const Tile tile{segment_, row_, left < kRows ? left : kRows};
        row_ += kRows;
        return tile;
    }

private:
    __host__ __device__ bool next_range() {
        if (kSparse && next_cube()) return true;
        if (segment_ + 1 >= axis_.count) return false;
        ++segment_;
        row_ = 0;
        end_ = axis_.counted(segment_, batch_);
        return true;
    }

    __host__ __device__ bool next_cube() {
        while (bits_ == 0) {
            if (word_ + 1 >= words_) {
                segment_ = segment_ < 0 ? 0 : segment_;  // the cubes are done, what follows is the second segment
                return false;
            }
            bits_ = selected_[++word_];
            const int cubes_here = axis_.cubes - 32 * word_;
            if (cubes_here < 32) bits_ &= (1u << cubes_here) - 1u;
        }
        int bit = 0;
#ifdef __CUDA_ARCH__
        bit = __ffs(static_cast<int>(bits_)) - 1;
#else
        bit = __builtin_ffs(static_cast<int>(bits_)) - 1;
#endif
        bits_ &= bits_ - 1;
        const Tile cube = cube_rows(axis_, 32 * word_ + bit);
        segment_ = 0;
        row_ = cube.row;
        end_ = cube.row + cube.rows;
        return true;
    }

    const Axis& axis_;
    const uint32_t* selected_;
    int batch_, words_;
    int segment_ = -1, row_ = 0, end_ = 0;
    int left_ = 0x7fffffff;
    int word_ = -1;
    uint32_t bits_ = 0;
};

// Splits of the keys that keep the device busy: as few as come within a tenth of the best use of `slots` blocks that
// run at once, each with at least `kLeast` tiles of keys to be worth its partial sums.
inline int choose_splits(int64_t blocks, int key_tiles, int64_t slots) {
    constexpr int kLeast = 4, kMost = 64;
    if (blocks == 0 || blocks * 5 >= slots * 4) return 1;
    const int most = key_tiles / kLeast < kMost ? key_tiles / kLeast : kMost;
    const auto use = [&](int splits) {
        const int64_t asked = blocks * splits, waves = (asked + slots - 1) / slots;
        return static_cast<double>(asked) / static_cast<double>(waves * slots);
    };
    double best = use(1);
    for (int splits = 2; splits <= most; ++splits) best = use(splits) > best ? use(splits) : best;
    for (int splits = 1; splits < most; ++splits)
        if (use(splits) >= 0.9 * best) return splits;
    return most > 1 ? most : 1;
}

}  // namespace sky4::cuda::sm80
