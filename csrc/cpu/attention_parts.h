// The inner parts of the attention kernels, as the driver (attention.cpp) calls them at each instruction-set level.
//
// Tokens are handled in blocks of at most 64: a tile of queries, blocks of keys. A block's tokens are given as pointers
// to their rows of d channels, so that segments, strides and cubes end here. Element type: float32 or bfloat16.
#pragma once

#include <cstdint>

namespace sky4::cpu {

constexpr int kBlock = 64;
constexpr int kMaxChannels = 128;

// Keys and values of one block, to be laid out as `attend` reads them.
struct PackBlock {
    const void* const* keys;    // [count] rows
    const void* const* values;  // [count] rows
    int count, channels;
    void *packed_keys, *packed_values;  // 64 * channels words each: see KernelTable::packed_word
};

struct KeyBlock {
    const void *keys, *values;  // packed
    int count;
};

struct AttendTile {
    const void* const* queries;  // [count] rows
    int count, channels;
    const KeyBlock* blocks;
    int64_t block_count;
    float scale;
    float* scratch;    // kAttendScratch floats, 64-byte aligned; each thread its own
    void* const* out;  // [count] rows of the queries' type, or of float32 where `partial`
    float* lse;        // [count], natural logarithm
    bool partial;
};

// Rows are padded by 16 floats so that rows of one column do not fall into the same cache sets.
constexpr int kStepKeys = 256;  // keys per softmax step: scores of 64 x 256 stay in the second-level cache
constexpr int kScoreStride = kStepKeys + 16;
constexpr int kRowStride = kMaxChannels + 16;
constexpr int64_t kAttendScratch = kBlock * (kScoreStride + 2 * kRowStride) + 3 * kBlock;

}  // namespace sky4::cpu
