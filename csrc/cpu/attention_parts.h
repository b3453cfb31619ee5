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

// The backward pass, in float32 throughout. A block is laid out twice,
//   rows        [kBlock, channels + 16]     token by token
//   transposed  [channels, kSquareStride]   channel by channel
// with zeros for the tokens beyond its count.
constexpr int kSquareStride = kBlock + 16;
constexpr int64_t rows_size(int channels) { return int64_t{kBlock} * (channels + 16); }
constexpr int64_t transposed_size(int channels) { return int64_t{kSquareStride} * channels; }

struct LayOut {
    const void* const* tokens;  // [count] rows
    int count, channels;
    float* rows;  // or null
    float* transposed;
};

struct QueryBlock {
    float *rows, *transposed;            // queries
    float *grad_rows, *grad_transposed;  // gradients at the output
    float* lse;                          // [kBlock], in base 2; +inf beyond count
    float* delta;                        // [kBlock] rowsum(out * its gradient); 0 beyond count
    int count;
};

struct Delta {
    const void *const *out, *const *grad_out;  // [count] rows
    int count, channels;
    float* delta;
};

// A block of keys against `chosen` blocks of queries.
struct BackwardTile {
    const float *key_rows, *key_transposed, *value_transposed;
    int count, channels;
    const QueryBlock* queries;
    const int64_t* chosen;
    int64_t chosen_count;
    float scale;
    float* scratch;                  // kBackwardScratch floats, 64-byte aligned
    float* grad_queries;             // [query blocks, kBlock, channels], added to
    float *grad_keys, *grad_values;  // [kBlock, channels], written
};

constexpr int64_t kBackwardScratch = 2 * kBlock * kSquareStride;

}  // namespace sky4::cpu
