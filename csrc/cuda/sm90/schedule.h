// Who works on what, and in which buffer: the integer side of the sm_90a kernels, the same code on host and device, so
// that csrc/tests/sm90_schedule.cpp can prove it without a GPU.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define SKY4_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define SKY4_HOST_DEVICE inline
#endif
#ifdef __CUDA_ARCH__
#define SKY4_UNROLL _Pragma("unroll")  // which host compilers warn of
#else
#define SKY4_UNROLL
#endif

namespace sky4::cuda::sm90 {

constexpr int kMaxSegments = 4;  // AttentionSegments::kMax

// A position in a ring of buffers, each with a `full` and an `empty` barrier. A consumer waits for `full` at `phase`, a
// producer for `empty` at `phase ^ 1`: on a fresh barrier the first is still to come, the second counts as passed.
template <int kSlots>
struct RingPosition {
    int slot = 0;
    uint32_t phase = 0;

    SKY4_HOST_DEVICE constexpr void advance() {
        ++slot;
        if (slot == kSlots) {
            slot = 0;
            phase ^= 1;
        }
    }
};

// A half-open range of key tiles.
struct TileRange {
    int begin, end;
};

SKY4_HOST_DEVICE constexpr TileRange split_range(int tiles, int split, int splits) {
    return {static_cast<int>(static_cast<int64_t>(tiles) * split / splits),
            static_cast<int>(static_cast<int64_t>(tiles) * (split + 1) / splits)};
}

// Rows row .. row + valid - 1 of a key segment; a tile always loads kTile rows.
struct KeyTile {
    int segment, row, valid;
};

// The key tiles of one batch item. The partial tiles (at most one per segment) come first, so that the loop over all
// others needs no mask.
template <int kTile>
struct KeyTiles {
    int length[kMaxSegments];
    int partial = 0, total = 0;

    SKY4_HOST_DEVICE constexpr explicit KeyTiles(const int (&lengths)[kMaxSegments]) : length() {
        SKY4_UNROLL
        for (int s = 0; s < kMaxSegments; ++s) {
            length[s] = lengths[s];
            partial += lengths[s] % kTile != 0;
            total += (lengths[s] + kTile - 1) / kTile;
        }
    }

    SKY4_HOST_DEVICE constexpr KeyTile at(int index) const {
        KeyTile tile{0, 0, 0};
        int before = 0;
        SKY4_UNROLL
        for (int s = 0; s < kMaxSegments; ++s) {
            const int rest = length[s] % kTile;
            if (rest != 0 && index == before) tile = {s, length[s] - rest, rest};
            before += rest != 0;
        }
        SKY4_UNROLL
        for (int s = 0; s < kMaxSegments; ++s) {
            const int full = length[s] / kTile;
            if (index >= before && index < before + full) tile = {s, (index - before) * kTile, kTile};
            before += full;
        }
        return tile;
    }
};

// One unit of work of the dense kernel: kTile query rows of one segment from `row` on, against one split of the keys.
struct WorkItem {
    int segment, row, split, head, batch;
};

// All units of work, query tiles fastest: the blocks that run together share a head's keys in the L2 cache. A tile
// never straddles two query segments.
struct WorkGrid {
    int tiles[kMaxSegments];  // query tiles of each segment
    int splits, heads, batches;

    SKY4_HOST_DEVICE constexpr int tiles_per_head() const { return tiles[0] + tiles[1] + tiles[2] + tiles[3]; }

    SKY4_HOST_DEVICE constexpr int64_t items() const {
        return static_cast<int64_t>(tiles_per_head()) * splits * heads * batches;
    }

    template <int kTile>
    SKY4_HOST_DEVICE constexpr WorkItem at(int item) const {
        const int per_head = tiles_per_head();
        int tile = item % per_head;
        int rest = item / per_head;
        WorkItem work{};
        work.split = rest % splits;
        rest /= splits;
        work.head = rest % heads;
        work.batch = rest / heads;
        SKY4_UNROLL
        for (int s = 0; s < kMaxSegments; ++s) {
            if (tile >= 0 && tile < tiles[s]) {
                work.segment = s;
                work.row = tile * kTile;
            }
            tile -= tiles[s];
        }
        return work;
    }
};

// Into how many parts to cut the keys so that a grid of `items` blocks fills `processors`: the fewest parts whose last
// wave is as full as possible within 10 %, each part at least kMinTiles key tiles long, below which the pipeline's
// start and the combination cost more than is won.
constexpr int choose_splits(int64_t items, int key_tiles, int processors) {
    constexpr int kMinTiles = 4, kMaxSplits = 32;
    if (items <= 0 || items * 5 >= static_cast<int64_t>(processors) * 4) return 1;
    const auto filled = [&](int splits) {
        const int64_t blocks = items * splits;
        const int64_t waves = (blocks + processors - 1) / processors;
        return static_cast<double>(blocks) / static_cast<double>(waves * processors);
    };
    const int most = key_tiles / kMinTiles < kMaxSplits ? key_tiles / kMinTiles : kMaxSplits;
    double best = 0.0;
    for (int splits = 1; splits <= most; ++splits) best = filled(splits) > best ? filled(splits) : best;
    for (int splits = 1; splits <= most; ++splits)
        if (filled(splits) >= 0.9 * best) return splits;
    return 1;
}

}  // namespace sky4::cuda::sm90
