// select_cubes, one range of query rows of one head at a time: what a level's translation unit gets.
#pragma once

#include <cstdint>

#include "row_view.h"

namespace sky4::cpu {

struct SelectRows {
    RowView queries, keys;
    bool is_bf16 = false;
    int64_t M_q = 0, M_k = 0, H = 0, d = 0, keep = 0;
    int64_t padded_keys = 0;      // M_k rounded up to a multiple of kSelectKeys
    int32_t* selected = nullptr;  // [B, H, M_q, ceil(M_k / 32)]
};

// Rows of one range: a multiple of every level's tile. More rows share the widening of the keys, fewer the cache.
constexpr int64_t kSelectRows = 64;
// Keys widened to float32 at a time: a multiple of every level's register tile, 48 KiB at 128 channels.
constexpr int64_t kSelectKeys = 96;

// float32 scratch of one thread for ranges of `count` rows (a multiple of 32, the widest tile).
inline int64_t select_scratch(const SelectRows& rows, int64_t count) {
    return (count + kSelectKeys) * rows.d + count * rows.padded_keys;
}

}  // namespace sky4::cpu
