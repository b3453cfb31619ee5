// qk_norm_rope on CUDA: bias, RMSNorm, rotation, reorder and the cubes' means, with one read and one write of the
// tensor.
//
// B batch, N rows (tokens), H heads, d channels per head, M cubes. A chunk is 16 bytes of one head's channels.
//
// A block takes a range of `out`'s rows (a cube, where means are wanted). Each warp takes a tile of heads and walks the
// rows: its lanes hold the same channels of the same heads all along, so that the weight of a norm per head and the
// cube's sums stay in registers, a token's rotation is loaded once for all of the tile's heads, and a sum over a cube
// has one order.
#include "../qk_norm_rope.h"

#include <algorithm>

#include "device.h"
#include "elements.h"
#include "prep.h"

namespace sky4::cuda {
namespace {

constexpr const char* kName = "qk_norm_rope";
// Heads (or groups of heads, where several fit side by side in a warp) of a tile, and rows under way at once: four
// loads of 16 bytes in flight per lane, and no register spilled.
constexpr int kDeep = 2;
constexpr int kRows = 2;
// Rows whose common norm is worked out ahead, where all heads share one: few enough to be read again from cache.
constexpr int kNormRows = 8;
constexpr int kMostWarps = 8;

// (a, b) -> (a cos - b sin, b cos + a sin) on each pair.
template <int kCount>
__device__ inline void rotate(float (&y)[kCount], const float (&turn)[kCount]) {
#pragma unroll
    for (int i = 0; i < kCount; i += 2) {
        const float a = y[i], b = y[i + 1];
        y[i] = a * turn[i] - b * turn[i + 1];
        y[i + 1] = b * turn[i] + a * turn[i + 1];
    }
}

// A lane's place: `lanes` lanes side by side hold a head, this one its channels from j on (if it has any).
struct Place {
    int lanes, heads_abreast, head, j;
    bool has_channels;

    template <typename T>
    __device__ static Place of(int lane, int d) {
        int lanes = 1;
        while (lanes * kChunk<T> < d) lanes *= 2;
        const int j = lane % lanes * kChunk<T>;
        return {lanes, 32 / lanes, lane / lanes, j, j < d};
    }
};

// A warp's heads, for the whole of its rows.
template <typename T>
struct Tile {
    bool here[kDeep];  // whether this lane holds channels of this head
    int head[kDeep];
    float sum[kDeep][kChunk<T>];
    Chunk<T> weight;  // of a norm per head: the same for all heads

    __device__ Tile(const Prep& p, const Place& place, int first_head) {
        if (p.norm == Norm::head && place.has_channels) weight = p.weight.chunk<T>(place.j);
#pragma unroll
        for (int k = 0; k < kDeep; ++k) {
            head[k] = first_head + k * place.heads_abreast + place.head;
            here[k] = head[k] < p.H && place.has_channels;
#pragma unroll
            for (int i = 0; i < kChunk<T>; ++i) sum[k][i] = 0;
        }
    }
};

template <typename T>
__device__ inline void add_bias(const Prep& p, int h, int j, Chunk<T>& x) {
    if (p.bias.data == nullptr) return;
    const Chunk<T> bias = p.bias.chunk<T>(h * p.d + j);
#pragma unroll
    for (int i = 0; i < kChunk<T>; ++i) x.at[i] += bias.at[i];
}

template <typename T>
__device__ inline float squares(const Chunk<T>& x) {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kChunk<T>; ++i) sum += x.at[i] * x.at[i];
    return sum;
}

template <typename T>
__device__ inline void scale(Chunk<T>& x, float inverse, const Chunk<T>& weight) {
#pragma unroll
    for (int i = 0; i < kChunk<T>; ++i) x.at[i] = x.at[i] * inverse * weight.at[i];
}

// The factor of a norm that all heads of a token share; the whole warp calls this.
template <typename T>
__device__ float common_inverse(const Prep& p, int64_t b, int64_t token, int lane) {
    const int chunks = p.d / kChunk<T>;
    float sum = 0;
    for (int c = lane; c < p.H * chunks; c += 32) {
        const int h = c / chunks, j = c % chunks * kChunk<T>;
        Chunk<T> x = Chunk<T>::of(load_16(row_of<const T>(p.x, b, token, h) + j));
        add_bias(p, h, j, x);
        sum += squares(x);
    }
    return p.inverse(sum_over(sum, 32));
}

// One row of the tile: from what was loaded to what is stored.
template <typename T>
__device__ void finish_row(const Prep& p, const Place& place, Tile<T>& tile, int64_t b, int64_t row,
                           const uint4 (&raw)[kDeep], const float (&turn)[kChunk<T>], float common) {
#pragma unroll
    for (int k = 0; k < kDeep; ++k) {
        Chunk<T> y = Chunk<T>::of(raw[k]);
        if (tile.here[k]) add_bias(p, tile.head[k], place.j, y);
        if (p.norm == Norm::head) scale(y, p.inverse(sum_over(squares(y), place.lanes)), tile.weight);
        if (!tile.here[k]) continue;
        if (p.norm == Norm::row) scale(y, common, p.weight.chunk<T>(tile.head[k] * p.d + place.j));
        if (p.turn != nullptr) rotate(y.at, turn);
        const uint4 rounded = y.rounded();
        store_16(row_of<T>(p.out, b, row, tile.head[k]) + place.j, rounded);
        const Chunk<T> again = Chunk<T>::of(rounded);
#pragma unroll
        for (int i = 0; i < kChunk<T>; ++i) tile.sum[k][i] += again.at[i];
    }
}

// Block (range of rows, group of tiles, b); blockDim / 32 tiles of heads.
template <typename T>
__global__ void __launch_bounds__(32 * kMostWarps, 2) prep(const __grid_constant__ Prep p) {
    __shared__ float common[kNormRows];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    const int64_t b = blockIdx.z, range = blockIdx.x;
    const int64_t first = p.starts != nullptr ? p.starts[range] : range * p.block_rows;
    const int64_t last = p.starts != nullptr ? p.starts[range + 1] : min(first + p.block_rows, p.N);
    const Place place = Place::of<T>(lane, p.d);
    const int tile_index = blockIdx.y * warps + warp;
    Tile<T> tile(p, place, tile_index * kDeep * place.heads_abreast);

    for (int64_t some = first; some < last; some += kNormRows) {
        const int64_t end = min(some + kNormRows, last);
        if (p.norm == Norm::row) {
            for (int64_t row = some + warp; row < end; row += warps) {
                const float inverse = common_inverse<T>(p, b, p.token(row), lane);
                if (lane == 0) common[row - some] = inverse;
            }
            __syncthreads();
        }
        for (int64_t row = some; row < end; row += kRows) {
            uint4 raw[kRows][kDeep];
            float turn[kRows][kChunk<T>];
#pragma unroll
            for (int r = 0; r < kRows; ++r) {
                const int64_t token = row + r < end ? p.token(row + r) : 0;
#pragma unroll
                for (int k = 0; k < kDeep; ++k) {
                    raw[r][k] = uint4{0, 0, 0, 0};
                    if (tile.here[k] && row + r < end)
                        raw[r][k] = load_16(row_of<const T>(p.x, b, token, tile.head[k]) + place.j);
                }
                if (p.turn == nullptr) continue;
                const float* from = p.turn + b * p.turn_batch + token * p.d + (place.has_channels ? place.j : 0);
#pragma unroll
                for (int i = 0; i < kChunk<T>; i += 4) {
                    const float4 pairs = *reinterpret_cast<const float4*>(from + i);
                    turn[r][i] = pairs.x, turn[r][i + 1] = pairs.y, turn[r][i + 2] = pairs.z, turn[r][i + 3] = pairs.w;
                }
            }
#pragma unroll
            for (int r = 0; r < kRows; ++r)
                if (row + r < end)
                    finish_row<T>(p, place, tile, b, row + r, raw[r], turn[r],
                                  p.norm == Norm::row ? common[row + r - some] : 1.0f);
        }
        if (p.norm == Norm::row) __syncthreads();
    }
    if (p.pooled.data == nullptr) return;
    const float share = last > first ? 1.0f / static_cast<float>(last - first) : 0.0f;
#pragma unroll
    for (int k = 0; k < kDeep; ++k) {
        if (!tile.here[k]) continue;
        Chunk<T> mean;
#pragma unroll
        for (int i = 0; i < kChunk<T>; ++i) mean.at[i] = tile.sum[k][i] * share;
        store_16(row_of<T>(p.pooled, b, range, tile.head[k]) + place.j, mean.rounded());
    }
}

Rows rows(const TensorRef& x) { return {x.data, x.stride[0], x.stride[1], x.stride[2]}; }

Factors factors(const std::optional<TensorRef>& x) {
    if (!x) return {nullptr, false};
    return {x->data, x->dtype == DType::float32};
}

bool is_aligned(const std::optional<TensorRef>& x) { return !x || has_aligned_rows(*x); }

// Whether the kernel that moves 16 bytes at a time can serve.
template <typename T>
bool in_chunks(const QKNormRope& args, int64_t d) {
    return d % kChunk<T> == 0 && d <= 32 * kChunk<T> && has_aligned_rows(args.x) && has_aligned_rows(args.out) &&
           is_aligned(args.pooled) && is_aligned(args.bias) && is_aligned(args.weight) &&
           (!args.turn || reinterpret_cast<uintptr_t>(args.turn->data) % 16 == 0);
}

unsigned up(int64_t n, int64_t by) { return static_cast<unsigned>((n + by - 1) / by); }

template <typename T>
void run_in_chunks(Prep p, int64_t B, int64_t cubes, int sms, cudaStream_t stream) {
    int heads_abreast = 32;
    while (32 / heads_abreast * kChunk<T> < p.d) heads_abreast /= 2;
    const unsigned tiles = up(p.H, kDeep * heads_abreast), groups = up(tiles, kMostWarps), warps = up(tiles, groups);
    // Rows for each block: enough blocks to fill the GPU four times, but no more than 64 rows, a cube's worth.
    const int64_t blocks = 4ll * sms * kMostWarps / warps;
    p.block_rows = std::clamp<int64_t>(B * p.N * groups / blocks, 1, 64);
    p.block_rows += p.block_rows % kRows;
    const unsigned ranges = p.starts != nullptr ? static_cast<unsigned>(cubes) : up(p.N, p.block_rows);
    launch(kName, prep<T>, dim3(ranges, groups, static_cast<unsigned>(B)), dim3(32 * warps), 0, stream, p);
}

template <typename T>
void run_any(const Prep& p, int64_t B, int64_t cubes, cudaStream_t stream) {
    constexpr int kWarps = 4;
    const int64_t norms = B * p.N * (p.norm == Norm::row ? 1 : p.H);
    if (norms > 0) launch(kName, prep_any<T>, dim3(up(norms, kWarps)), dim3(32 * kWarps), 0, stream, p, norms);
    if (cubes == 0) return;
    const dim3 grid(static_cast<unsigned>(cubes), static_cast<unsigned>(p.H), static_cast<unsigned>(B));
    launch(kName, pool_any<T>, grid, dim3(128), 0, stream, p);
}

}  // namespace

void qk_norm_rope(const QKNormRope& args) {
    const int64_t B = args.x.shape[0], N = args.x.shape[1], H = args.x.shape[2], d = args.x.shape[3];
    const int64_t cubes = args.starts ? args.starts->shape[0] - 1 : 0;
    if (B * H * d == 0 || (N == 0 && cubes == 0)) return;
    const DeviceGuard guard(kName, args.x.device_index);
    Prep p{};
    p.x = rows(args.x);
    p.out = rows(args.out);
    p.bias = factors(args.bias);
    p.weight = factors(args.weight);
    if (args.turn) {
        p.turn = args.turn->as<const float>();
        p.turn_batch = args.turn->shape[0] == 1 ? 0 : N * d;
    }
    if (args.order) p.order = args.order->as<const int64_t>();
    if (cubes > 0) {
        p.starts = args.starts->as<const int32_t>();
        p.pooled = rows(*args.pooled);
    }
    p.N = N;
    p.H = static_cast<int32_t>(H);
    p.d = static_cast<int32_t>(d);
    p.norm = !args.weight ? Norm::none : args.weight->ndim == 1 ? Norm::head : Norm::row;
    p.eps = args.eps;
    p.share = 1.0f / static_cast<float>(p.norm == Norm::row ? H * d : d);
    const int sms = multiprocessors(kName, args.x.device_index);
    cudaStream_t stream = to_cuda(args.stream);
    with_element(kName, args.x.dtype, [&](auto element) {
        using T = decltype(element);
        if (in_chunks<T>(args, d))
            run_in_chunks<T>(p, B, cubes, sms, stream);
        else
            run_any<T>(p, B, cubes, stream);
    });
}

}  // namespace sky4::cuda
