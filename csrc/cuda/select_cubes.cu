// select_cubes on CUDA: for every query cube the `keep` key cubes of the highest score.
//
// B batch, M_q, M_k cubes, H heads, d channels per head. A slab is some query rows of one or several (b, h): their
// scores, as sortable keys, are the only part of [B, H, M_q, M_k] that is ever held.
//
// For each slab: `score` multiplies tiles of queries and keys in float32, each sum over the channels in their order, so
// that equal cubes score equally wherever they stand; `choose` finds each row's threshold, bit by bit from the highest,
// and sets the bits of what lies above it, then of the lowest indices among what equals it.
#include "../select_cubes.h"

#include <algorithm>

#include "device.h"
#include "elements.h"

namespace sky4::cuda {
namespace {

constexpr const char* kName = "select_cubes";
constexpr unsigned kAll = 0xffffffffu;

// Less than the level 2 cache of an A100 or H100 (40, 50 MB): a slab is written and read there.
constexpr int64_t kSlabBytes = 32ll << 20;

constexpr int kTile = 128;  // queries and keys of a block of `score`
constexpr int kDepth = 16;  // channels in shared memory at a time
constexpr int kPatch = 8;   // a thread's queries, and its keys: 64 products for 16 reads of shared memory
constexpr int kScorers = (kTile / kPatch) * (kTile / kPatch);
constexpr int kChoosers = 256;
constexpr int kWarps = kChoosers / 32;

struct Cubes {
    const void* data;
    int64_t batch, cube, head;  // strides in elements
};

struct Selection {
    Cubes queries, keys;
    int32_t H, M_q, M_k, d, keep;
    int32_t words;       // of 32 key cubes each
    uint32_t* slab;      // [pairs, rows, M_k]
    int64_t first_pair;  // pair = b H + h
    int32_t first_row, rows;
    uint32_t* selected;  // [B, H, M_q, words]
};

// Unsigned order = order of the scores; the two zeros are one score; NaN comes last, below -inf.
__host__ __device__ inline uint32_t sortable(float score) {
    if (score != score) return 0;
    score += 0.0f;
    uint32_t bits;
    memcpy(&bits, &score, sizeof bits);
    return bits >> 31 != 0 ? ~bits : bits | 0x80000000u;
}

template <typename T>
__device__ const T* cube_of(const Cubes& cubes, int64_t b, int64_t cube, int64_t h) {
    return static_cast<const T*>(cubes.data) + b * cubes.batch + cube * cubes.cube + h * cubes.head;
}

// Rows first .. first + kTile - 1 of `cubes`, channels c .. c + kDepth - 1, as [channel][row]; zero beyond the borders.
template <typename T>
__device__ void load_tile(const Cubes& cubes, int64_t b, int64_t h, int first, int count, int c, int d,
                          float (&tile)[kDepth][kTile + 1]) {
    for (int i = threadIdx.x; i < kTile * kDepth; i += kScorers) {
        const int row = i / kDepth, channel = i % kDepth;
        const bool inside = first + row < count && c + channel < d;
        tile[channel][row] = inside ? widen(cube_of<T>(cubes, b, first + row, h)[c + channel]) : 0.0f;
    }
}

// Block (tile of keys, tile of queries, pair).
template <typename T>
__global__ void __launch_bounds__(kScorers) score(const __grid_constant__ Selection p) {
    // One column more than needed: the writes of a warp, along the channels, then fall into different banks.
    __shared__ float queries[kDepth][kTile + 1], keys[kDepth][kTile + 1];
    const int64_t pair = p.first_pair + blockIdx.z, b = pair / p.H, h = pair % p.H;
    const int first_query = p.first_row + blockIdx.y * kTile, first_key = blockIdx.x * kTile;
    const int end_query = p.first_row + p.rows;
    // The thread's queries and keys lie kTile / kPatch apart: neighbouring threads read neighbouring banks.
    constexpr int kApart = kTile / kPatch;
    const int query = threadIdx.x / kApart, key = threadIdx.x % kApart;
    float sum[kPatch][kPatch] = {};
    for (int c = 0; c < p.d; c += kDepth) {
        load_tile<T>(p.queries, b, h, first_query, end_query, c, p.d, queries);
        load_tile<T>(p.keys, b, h, first_key, p.M_k, c, p.d, keys);
        __syncthreads();
#pragma unroll
        for (int channel = 0; channel < kDepth; ++channel) {
            float q[kPatch], k[kPatch];
#pragma unroll
            for (int i = 0; i < kPatch; ++i) {
                q[i] = queries[channel][query + i * kApart];
                k[i] = keys[channel][key + i * kApart];
            }
#pragma unroll
            for (int i = 0; i < kPatch; ++i)
#pragma unroll
                for (int j = 0; j < kPatch; ++j) sum[i][j] = fmaf(q[i], k[j], sum[i][j]);
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < kPatch; ++i)
#pragma unroll
        for (int j = 0; j < kPatch; ++j) {
            const int row = first_query + query + i * kApart - p.first_row, column = first_key + key + j * kApart;
            if (row < p.rows && column < p.M_k)
                p.slab[(static_cast<int64_t>(blockIdx.z) * p.rows + row) * p.M_k + column] = sortable(sum[i][j]);
        }
}

// The sum over the block, for every thread.
__device__ int sum_over_block(int value, int (&scratch)[kWarps]) {
    for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(kAll, value, step);
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
    __syncthreads();
    int sum = 0;
    for (int warp = 0; warp < kWarps; ++warp) sum += scratch[warp];
    __syncthreads();
    return sum;
}

__device__ int count_from(const uint32_t* keys, int count, uint32_t threshold, int (&scratch)[kWarps]) {
    int mine = 0;
    for (int i = threadIdx.x; i < count; i += kChoosers) mine += keys[i] >= threshold;
    return sum_over_block(mine, scratch);
}

// Block (row of the slab, pair). Rows that fit are kept in shared memory while they are searched.
__global__ void __launch_bounds__(kChoosers) choose(const __grid_constant__ Selection p, bool in_shared) {
    __shared__ int scratch[kWarps];
    const uint32_t* keys = p.slab + (static_cast<int64_t>(blockIdx.y) * p.rows + blockIdx.x) * p.M_k;
    if (in_shared) {
        uint32_t* row = dynamic_shared<uint32_t>();
        for (int i = threadIdx.x; i < p.M_k; i += kChoosers) row[i] = keys[i];
        __syncthreads();
        keys = row;
    }
    // The largest threshold that at least `keep` keys reach. Once exactly `keep` do, no lower bit changes the choice.
    uint32_t threshold = 0;
    int reached = p.M_k;
    for (uint32_t bit = 1u << 31; bit != 0 && reached != p.keep; bit >>= 1) {
        const int count = count_from(keys, p.M_k, threshold | bit, scratch);
        if (count < p.keep) continue;
        threshold |= bit;
        reached = count;
    }
    // All above the threshold, and of those at it as many of the first as are still wanted. No key lies above ~0.
    const int above = threshold == ~0u ? 0 : count_from(keys, p.M_k, threshold + 1, scratch), wanted = p.keep - above;

    // Each warp takes a run of words; a lane is a column. First how many keys of the run equal the threshold.
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int run = (p.words + kWarps - 1) / kWarps, first = min(warp * run, p.words), last = min(first + run, p.words);
    const auto equals = [&](int word) {
        const int column = word * 32 + lane;
        return __ballot_sync(kAll, column < p.M_k && keys[column] == threshold);
    };
    int equal = 0;
    for (int word = first; word < last; ++word) equal += __popc(equals(word));
    if (lane == 0) scratch[warp] = equal;
    __syncthreads();
    int before = 0;  // equal keys in columns to the left
    for (int other = 0; other < warp; ++other) before += scratch[other];

    uint32_t* selected =
        p.selected + ((p.first_pair + blockIdx.y) * p.M_q + p.first_row + blockIdx.x) * static_cast<int64_t>(p.words);
    for (int word = first; word < last; ++word) {
        const int column = word * 32 + lane;
        const uint32_t same = equals(word);
        const int rank = before + __popc(same & ((1u << lane) - 1));
        const bool is_same = (same >> lane & 1u) != 0;
        const bool take = is_same ? rank < wanted : column < p.M_k && keys[column] > threshold;
        const uint32_t bits = __ballot_sync(kAll, take);
        if (lane == 0) selected[word] = bits;
        before += __popc(same);
    }
}

Cubes cubes(const TensorRef& x) { return {x.data, x.stride[0], x.stride[1], x.stride[2]}; }

unsigned up(int64_t n, int64_t by) { return static_cast<unsigned>((n + by - 1) / by); }

// Several whole pairs, or some rows of one.
struct Slab {
    int64_t pairs, rows;

    static Slab of(int64_t all_pairs, int64_t M_q, int64_t M_k) {
        const int64_t fitting = std::max<int64_t>(kSlabBytes / (M_k * static_cast<int64_t>(sizeof(uint32_t))), 1);
        constexpr int64_t kMostPairs = 65535;  // of a grid's second and third axis
        if (fitting >= M_q) return {std::clamp<int64_t>(fitting / M_q, 1, std::min(all_pairs, kMostPairs)), M_q};
        return {1, std::max<int64_t>(fitting / kTile * kTile, 1)};
    }
    size_t bytes(int64_t M_k) const { return static_cast<size_t>(pairs * rows * M_k) * sizeof(uint32_t); }
};

template <typename T>
void run(Selection p, int64_t all_pairs, const Slab& slab, size_t shared_bytes, cudaStream_t stream) {
    for (int64_t pair = 0; pair < all_pairs; pair += slab.pairs)
        for (int64_t row = 0; row < p.M_q; row += slab.rows) {
            p.first_pair = pair;
            p.first_row = static_cast<int32_t>(row);
            p.rows = static_cast<int32_t>(std::min(slab.rows, p.M_q - row));
            const unsigned pairs = static_cast<unsigned>(std::min(slab.pairs, all_pairs - pair));
            launch(kName, score<T>, dim3(up(p.M_k, kTile), up(p.rows, kTile), pairs), dim3(kScorers), 0, stream, p);
            launch(kName, choose, dim3(static_cast<unsigned>(p.rows), pairs), dim3(kChoosers), shared_bytes, stream, p,
                   shared_bytes > 0);
        }
}

// Room in shared memory for a row of keys, granted to `choose`; 0 where the GPU has less.
size_t shared_row(int device, int64_t M_k) {
    const size_t bytes = static_cast<size_t>(M_k) * sizeof(uint32_t);
    constexpr size_t kOwn = kWarps * sizeof(int);  // the static part
    const int most = device_attribute(kName, device, cudaDevAttrMaxSharedMemoryPerBlockOptin);
    if (bytes + kOwn > static_cast<size_t>(most)) return 0;
    check(cudaFuncSetAttribute(choose, cudaFuncAttributeMaxDynamicSharedMemorySize, most - static_cast<int>(kOwn)),
          kName);
    return bytes;
}

}  // namespace

void select_cubes(const SelectCubes& args) {
    const int64_t B = args.queries.shape[0], M_q = args.queries.shape[1], H = args.queries.shape[2];
    const int64_t M_k = args.keys.shape[1];
    if (B * H * M_q == 0) return;
    const int device = args.queries.device_index;
    const DeviceGuard guard(kName, device);
    cudaStream_t stream = to_cuda(args.stream);
    const Slab slab = Slab::of(B * H, M_q, M_k);
    const Temporary memory(kName, device, slab.bytes(M_k), stream);
    Selection p{};
    p.queries = cubes(args.queries);
    p.keys = cubes(args.keys);
    p.H = static_cast<int32_t>(H), p.M_q = static_cast<int32_t>(M_q), p.M_k = static_cast<int32_t>(M_k);
    p.d = static_cast<int32_t>(args.queries.shape[3]), p.keep = static_cast<int32_t>(args.keep);
    p.words = (p.M_k + 31) / 32;
    p.slab = memory.as<uint32_t>();
    p.selected = args.selected.as<uint32_t>();
    const size_t shared_bytes = shared_row(device, M_k);
    with_element(kName, args.queries.dtype,
                 [&](auto element) { run<decltype(element)>(p, B * H, slab, shared_bytes, stream); });
}

}  // namespace sky4::cuda
