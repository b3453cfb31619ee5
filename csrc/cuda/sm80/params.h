// What an attention launch is told: plain data, passed by value to every kernel of this path.
//
// B batch, H heads, L_i length of segment i, L the sum of the queries' L_i, d channels, M cubes.
#pragma once

#include "primitives.h"

namespace sky4::cuda::sm80 {

constexpr int kMaxSegments = 4;
constexpr int kCube = 64;  // tokens of a full cube

// A [B, L_i, H, d] tensor of 16-bit elements; strides in elements, channels adjacent.
struct View {
    uint16_t* data;
    int64_t batch, row, head;

    __host__ __device__ uint16_t* at(int b, int h, int64_t r) const { return data + (b * batch + h * head + r * row); }
};

// The tokens along one side of the score matrix. Dense: `count` segments. Block-sparse: segment 0 is cut into cubes at
// `starts`, and a second segment (the text keys) is always there as a whole.
struct Axis {
    int count;
    int length[kMaxSegments];
    const int* lengths[kMaxSegments];  // [B] tokens that count, or null for all
    int64_t first[kMaxSegments];       // row of the segment in the concatenation (out, lse)
    int first_tile[kMaxSegments];      // of the segment's tiles among all, for the axis that the grid runs over
    const int* starts;                 // [M + 1]
    int cubes;                         // M

    __host__ __device__ int counted(int segment, int b) const {
        const int* cut = lengths[segment];
        if (cut == nullptr) return length[segment];
        const int wanted = cut[b] < 0 ? 0 : cut[b];
        return wanted < length[segment] ? wanted : length[segment];
    }
};

struct AttentionParams {
    Axis queries, keys;
    View q[kMaxSegments], k[kMaxSegments], v[kMaxSegments];
    View out;    // [B, L, H, d]
    float* lse;  // [B, H, L] or null
    int batch, heads;
    int64_t total_queries;  // L
    float scale;
    int tiles;  // of the axis that the grid runs over
    // Block-sparse: a row of bits per (b, h, own cube) over the cubes of the other axis.
    const uint32_t* selected;
    int words;  // of such a row
    // Splits of the keys, each leaving float32 partials: [splits, B, H, L, d] normalised, and [splits, B, H, L].
    int splits;
    float* partial_out;
    float* partial_lse;
    // Backward.
    View grad_out;
    View grad_q[kMaxSegments], grad_k[kMaxSegments], grad_v[kMaxSegments];
    float2* stats;  // [B, H, L] (lse in units of log 2, +inf where no key counts; rowsum of dO O)
};

// Index into lse, stats and (times d) a partial output.
__host__ __device__ inline int64_t stat_index(const AttentionParams& p, int b, int h, int64_t row) {
    return (static_cast<int64_t>(b) * p.heads + h) * p.total_queries + row;
}

}  // namespace sky4::cuda::sm80
