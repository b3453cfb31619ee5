// select_cubes over the vectors of one level: a tile of query rows at a time, one row in each lane.
//
// With the rows in the lanes the keys are read as they lie (a broadcast each), the search for a row's threshold needs
// no sums across lanes, and all rows of a tile search at once.
#pragma once

#include "select_cubes_rows.h"
#include "vector.h"

namespace sky4::cpu::SKY4_LEVEL {
namespace {

// Twelve accumulators and two vectors of queries fill the 16 registers of AVX2.
constexpr int kKeysAtOnce = 6;
constexpr int kSelectTile = 2 * kLanes;
static_assert(kSelectTile <= kSelectRows && kSelectKeys % kKeysAtOnce == 0, "a tile fits its scratch");

// tile [d, kSelectTile] = the queries of `count` rows, transposed; missing rows are zero.
template <typename T>
SKY4_INLINE void transpose_queries(const T* queries, int64_t row_stride, int64_t count, int64_t d, float* tile) {
    for (int64_t r = 0; r < kSelectTile; ++r)
        for (int64_t j = 0; j < d; ++j)
            tile[j * kSelectTile + r] = r < count ? to_f32(queries[r * row_stride + j]) : 0.0f;
}

// block [kSelectKeys, d] = the keys of `count` cubes in float32; those missing from the last kKeysAtOnce are zero.
template <typename T>
SKY4_INLINE void widen_keys(const T* keys, int64_t key_stride, int64_t count, int64_t d, float* block) {
    for (int64_t k = 0; k < count; ++k) {
        const T* key = keys + k * key_stride;
        float* out = block + k * d;
        int64_t j = 0;
        for (; j + kLanes <= d; j += kLanes) store(out + j, load(key + j));
        for (; j < d; ++j) out[j] = to_f32(key[j]);
    }
    for (int64_t j = count * d; j % (kKeysAtOnce * d) != 0; ++j) block[j] = 0.0f;
}

// scores [kKeysAtOnce, kSelectTile] = keys [kKeysAtOnce, d] times tile [d, kSelectTile]. One order of summation for
// every pair, so that equal keys have equal scores.
SKY4_INLINE void score_keys(const float* keys, const float* tile, int64_t d, float* scores) {
    vf sum[kKeysAtOnce][2] = {};
    for (int64_t j = 0; j < d; ++j) {
        const vf left = load(tile + j * kSelectTile), right = load(tile + j * kSelectTile + kLanes);
        for (int k = 0; k < kKeysAtOnce; ++k) {
            const vf key = splat(keys[k * d + j]);
            sum[k][0] = fma(key, left, sum[k][0]);
            sum[k][1] = fma(key, right, sum[k][1]);
        }
    }
    for (int k = 0; k < kKeysAtOnce; ++k) {
        store(scores + k * kSelectTile, sum[k][0]);
        store(scores + k * kSelectTile + kLanes, sum[k][1]);
    }
}

SKY4_INLINE vi in_order(vf score) {
    const vi bits = (vi)(score + 0.0f);  // -0 and 0 are equal scores
    const vi ordered = bits ^ ((bits >> 31) & 0x7fffffff);
    const vi is_nan = score != score;
    return (is_nan & (-0x7fffffff - 1)) | (~is_nan & ordered);
}

SKY4_INLINE bool any_lane(vi mask) {
    int32_t found = 0;
    for (int i = 0; i < kLanes; ++i) found |= mask[i];
    return found != 0;
}

// How many of the keys [M, kSelectTile] of each lane are at least `bound`.
SKY4_INLINE vi count_from(const int32_t* ordered, int64_t M, vi bound) {
    vi count{}, more{};
    int64_t k = 0;
    for (; k + 2 <= M; k += 2) {
        count -= load_as<vi>(ordered + k * kSelectTile) >= bound;
        more -= load_as<vi>(ordered + (k + 1) * kSelectTile) >= bound;
    }
    if (k < M) count -= load_as<vi>(ordered + k * kSelectTile) >= bound;
    return count + more;
}

// scores [M, kSelectTile], one half of the tile's lanes from column 0: turned into integers of the same order in place,
// then the `keep` highest of each lane set as bits. words: [kLanes] rows of ceil(M / 32), `count` of them exist.
SKY4_INLINE void select_lanes(float* scores, int64_t M, int64_t keep, int32_t* words, int64_t count) {
    auto* ordered = reinterpret_cast<int32_t*>(scores);
    vi low = in_order(load(scores)), high = low;
    for (int64_t k = 0; k < M; ++k) {
        const vi value = in_order(load(scores + k * kSelectTile));
        store_as(ordered + k * kSelectTile, value);
        low = value < low ? value : low;
        high = value > high ? value : high;
    }
    // Bisection for the highest bound that at least `keep` reach. Reached from `low` by enough, from `high` by too few;
    // a bound that exactly `keep` reach is as good as the highest, and usually met long before.
    const vi wanted = splat(static_cast<int32_t>(keep));
    high += 1;
    for (;;) {
        const vu span = (vu)high - (vu)low;  // unsigned: the whole range of int32 may lie between
        const vi open = span > 1u;
        if (!any_lane(open)) break;
        const vi middle = (vi)((vu)low + (span >> 1));
        const vi reached = count_from(ordered, M, middle);
        const vi enough = open & (reached >= wanted), few = open & (reached < wanted);
        low = enough ? middle : low;
        high = few ? middle : high;
        high = (enough & (reached == wanted)) ? low + 1 : high;
    }
    vi ties = wanted - count_from(ordered, M, low + 1);  // of those equal to the bound so many are taken, the first
    const int64_t row_words = (M + 31) / 32;
    for (int64_t w = 0; w < row_words; ++w) {
        vi word{};
        const int64_t last = M < (w + 1) * 32 ? M : (w + 1) * 32;
        for (int64_t k = w * 32; k < last; ++k) {
            const vi value = load_as<vi>(ordered + k * kSelectTile);
            const vi tied = (value == low) & (ties > 0);
            ties += tied;
            word |= ((value > low) | tied) & splat(static_cast<int32_t>(1u << (k % 32)));
        }
        for (int64_t r = 0; r < count; ++r) words[r * row_words + w] = word[r];
    }
}

template <typename T>
void select_rows_of(const SelectRows& rows, int64_t b, int64_t h, int64_t first, int64_t last, float* scratch) {
    const int64_t d = rows.d, M = rows.M_k, padded = rows.padded_keys, row_words = (M + 31) / 32;
    const int64_t tiles = (last - first + kSelectTile - 1) / kSelectTile;
    float *query_tiles = scratch, *block = query_tiles + tiles * kSelectTile * d, *scores = block + kSelectKeys * d;
    const T* queries = static_cast<const T*>(rows.queries.data) + b * rows.queries.batch + h * rows.queries.head;
    const T* keys = static_cast<const T*>(rows.keys.data) + b * rows.keys.batch + h * rows.keys.head;
    for (int64_t t = 0; t < tiles; ++t) {
        const int64_t row = first + t * kSelectTile, count = last - row < kSelectTile ? last - row : kSelectTile;
        transpose_queries(queries + row * rows.queries.token, rows.queries.token, count, d,
                          query_tiles + t * kSelectTile * d);
    }
    for (int64_t k = 0; k < M; k += kSelectKeys) {
        const int64_t count = M - k < kSelectKeys ? M - k : kSelectKeys;
        widen_keys(keys + k * rows.keys.token, rows.keys.token, count, d, block);
        for (int64_t t = 0; t < tiles; ++t)
            for (int64_t i = 0; i < count; i += kKeysAtOnce)
                score_keys(block + i * d, query_tiles + t * kSelectTile * d, d,
                           scores + (t * padded + k + i) * kSelectTile);
    }
    for (int64_t row = first; row < last; row += kLanes) {
        const int64_t t = (row - first) / kSelectTile, lane = (row - first) % kSelectTile;
        int32_t* words = rows.selected + ((b * rows.H + h) * rows.M_q + row) * row_words;
        select_lanes(scores + t * padded * kSelectTile + lane, M, rows.keep, words,
                     last - row < kLanes ? last - row : kLanes);
    }
}

// Query rows first .. last - 1 of head h of sample b; scratch as select_scratch tells.
void select_rows(const SelectRows& rows, int64_t b, int64_t h, int64_t first, int64_t last, float* scratch) {
    (rows.is_bf16 ? select_rows_of<bf16> : select_rows_of<float>)(rows, b, h, first, last, scratch);
}

}  // namespace
}  // namespace sky4::cpu::SKY4_LEVEL
