// latent_assemble on CUDA: the bits of csrc/cpu/latent_assemble.cpp, whose head tells the arithmetic.
//
// B batch, C latent channels, T -> T2 latent frames, h, w -> H, W latent grid, K keyframes.
//
// One thread makes one run of 16 bytes along W (one element where rows are not aligned) of both halves of `out`: it
// loads the noise, works out the condition while that is on its way, and stores both past the caches.
#include "../latent_assemble.h"

#include <algorithm>
#include <string>
#include <vector>

#include "device.h"
#include "elements.h"

namespace sky4::cuda {
namespace {

constexpr const char* kName = "latent_assemble";
constexpr int kThreads = 256;
// Keyframes that one launch passes by value (kernel parameters end at 4 KiB): no copy from the host is needed.
constexpr int kListed = 512;

// One axis: target index i lies at max(start + step i, 0) / denominator on an axis of `size`.
struct Axis {
    int64_t size, target, start, step, denominator;

    static Axis corners(int64_t size, int64_t target) {
        return {size, target, 0, size - 1, std::max<int64_t>(target - 1, 1)};
    }
    static Axis edges(int64_t size, int64_t target) { return {size, target, size - target, 2 * size, 2 * target}; }
};

// Where a target index reads: the low index, and the weight of its upper neighbour, which is one further or, at the
// border, the same.
struct Tap {
    int32_t low;
    float weight;
};

__host__ __device__ inline Tap tap(const Axis& axis, int64_t i) {
    const int64_t position = axis.start + axis.step * i > 0 ? axis.start + axis.step * i : 0;
    const int64_t low = position / axis.denominator, last = axis.size - 1;
    return {static_cast<int32_t>(low < last ? low : last),
            static_cast<float>(static_cast<double>(position % axis.denominator) / axis.denominator)};
}

struct Keyframes {
    int first, count;        // entries of `frame` are keyframes first .. first + count - 1
    int32_t frame[kListed];  // their target frames
};

struct Tables {
    Tap *time, *y, *x;     // [T2], [H], [W]
    int32_t* keyframe_of;  // [T2]: per target frame its keyframe, or -1
};

__global__ void fill_tables(Tables tables, Axis time, Axis y, Axis x, const __grid_constant__ Keyframes listed) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    if (i < y.target) tables.y[i] = tap(y, i);
    if (i < x.target) tables.x[i] = tap(x, i);
    if (i >= time.target) return;
    tables.time[i] = tap(time, i);
    int keyframe = listed.first == 0 ? -1 : tables.keyframe_of[i];
    for (int k = 0; k < listed.count; ++k)
        if (listed.frame[k] == i) keyframe = listed.first + k;
    tables.keyframe_of[i] = keyframe;
}

struct View {
    const void* data;
    int64_t stride[4];  // batch, channel, time, y

    template <typename T>
    __device__ const T* row(int64_t b, int64_t c, int64_t t, int64_t y) const {
        return static_cast<const T*>(data) + b * stride[0] + c * stride[1] + t * stride[2] + y * stride[3];
    }
};

enum class Mask { none, boolean, element };

struct Assembly {
    View low, noise, keyframes, source, mask;
    Mask mask_kind;
    Tables tables;
    void* out;
    int32_t C, T2, H, W, T, h, w;
};

// No fused multiply-add: these are the reference's roundings.
__device__ inline float mix(float a, float b, float weight) {
    return __fadd_rn(__fmul_rn(a, __fsub_rn(1.0f, weight)), __fmul_rn(b, weight));
}

// kWidth consecutive elements, their bits untouched.
template <typename T, int kWidth>
struct Run {
    T at[kWidth];

    __device__ static Run load(const T* from) {
        Run run;
        if constexpr (kWidth == 1)
            run.at[0] = *from;
        else {
            const uint4 raw = load_16(from);
            memcpy(run.at, &raw, sizeof raw);
        }
        return run;
    }

    __device__ void store(T* to) const {
        if constexpr (kWidth == 1)
            *to = at[0];
        else {
            uint4 raw;
            memcpy(&raw, at, sizeof raw);
            __stcs(reinterpret_cast<uint4*>(to), raw);
        }
    }
};

// The four low rows around a target row, mixed along y, then time, at one low column after the other.
template <typename T>
struct Column {
    const T *a, *a_below, *z, *z_below;  // rows of the earlier and the later frame
    float wy, wt;

    __device__ float operator()(int x) const {
        return mix(mix(widen(a[x]), widen(a_below[x]), wy), mix(widen(z[x]), widen(z_below[x]), wy), wt);
    }
};

template <typename T, int kWidth>
__device__ Run<T, kWidth> interpolated(const Assembly& p, int64_t b, int64_t c, int t, int y, int x) {
    const Tap time = p.tables.time[t], across = p.tables.y[y];
    const int t1 = min(time.low + 1, p.T - 1), y1 = min(across.low + 1, p.h - 1);
    const Column<T> column{p.low.row<T>(b, c, time.low, across.low),
                           p.low.row<T>(b, c, time.low, y1),
                           p.low.row<T>(b, c, t1, across.low),
                           p.low.row<T>(b, c, t1, y1),
                           across.weight,
                           time.weight};
    Run<T, kWidth> run;
    // Neighbouring targets share low columns: the last two are kept.
    int left = -1, right = -1;
    float left_value = 0, right_value = 0;
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
        const Tap at = p.tables.x[x + i];
        const int next = min(at.low + 1, p.w - 1);
        if (at.low != left) {
            left_value = at.low == right ? right_value : column(at.low);
            left = at.low;
        }
        if (next != right) {
            right_value = next == left ? left_value : column(next);
            right = next;
        }
        run.at[i] = narrow<T>(mix(left_value, right_value, at.weight));
    }
    return run;
}

// Block (plane, part): plane = (b, c, t), part = kThreads runs of it.
template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads) assemble(const __grid_constant__ Assembly p) {
    const int runs_per_row = p.W / kWidth, in_plane = blockIdx.y * kThreads + threadIdx.x;
    if (in_plane >= p.H * runs_per_row) return;
    const int t = blockIdx.x % p.T2, c = blockIdx.x / p.T2 % p.C;
    const int64_t b = blockIdx.x / p.T2 / p.C;
    const int y = in_plane / runs_per_row, x = in_plane % runs_per_row * kWidth;

    using Elements = Run<T, kWidth>;
    const Elements noise = Elements::load(p.noise.row<T>(b, c, t, y) + x);
    const int keyframe = p.tables.keyframe_of[t];
    Elements condition = keyframe >= 0 ? Elements::load(p.keyframes.row<T>(b, c, keyframe, y) + x)
                                       : interpolated<T, kWidth>(p, b, c, t, y, x);
    if (p.mask_kind != Mask::none) {
        const Elements source = Elements::load(p.source.row<T>(b, c, t, y) + x);
#pragma unroll
        for (int i = 0; i < kWidth; ++i) {
            const bool keep = p.mask_kind == Mask::boolean ? p.mask.row<uint8_t>(b, 0, t, y)[x + i] != 0
                                                           : widen(p.mask.row<T>(b, 0, t, y)[x + i]) == 1.0f;
            if (keep) condition.at[i] = source.at[i];
        }
    }
    const int64_t plane = static_cast<int64_t>(p.H) * p.W, cell = static_cast<int64_t>(y) * p.W + x;
    T* out = static_cast<T*>(p.out) + ((b * 2 * p.C + c) * p.T2 + t) * plane + cell;
    noise.store(out);
    condition.store(out + static_cast<int64_t>(p.C) * p.T2 * plane);
}

View view(const std::optional<TensorRef>& x) {
    if (!x) return {};
    return {x->data, {x->stride[0], x->stride[1], x->stride[2], x->stride[3]}};
}

// The keyframes' target frames, checked as on the CPU.
std::vector<int32_t> keyframe_frames(const LatentAssemble& args) {
    std::vector<int32_t> frames;
    if (!args.keyframe_indices) return frames;
    const TensorRef& indices = *args.keyframe_indices;
    const int64_t T2 = args.noise.shape[2];
    std::vector<bool> taken(static_cast<size_t>(T2), false);
    for (int64_t k = 0; k < indices.shape[0]; ++k) {
        const int64_t frame = indices.as<const int64_t>()[k * indices.stride[0]];
        if (frame < 0 || frame >= T2)
            throw WrongValue(std::string(kName) + ": keyframe_indices holds " + std::to_string(frame) +
                             ", expected 0 to " + std::to_string(T2 - 1));
        if (taken[static_cast<size_t>(frame)])
            throw WrongValue(std::string(kName) + ": keyframe_indices holds " + std::to_string(frame) +
                             " twice, expected distinct frames");
        taken[static_cast<size_t>(frame)] = true;
        frames.push_back(static_cast<int32_t>(frame));
    }
    return frames;
}

void make_tables(const LatentAssemble& args, const Tables& tables, cudaStream_t stream) {
    const std::vector<int32_t> frames = keyframe_frames(args);
    const TensorRef &low = args.low, &noise = args.noise;
    const Axis time = Axis::corners(low.shape[2], noise.shape[2]);
    const Axis y = Axis::edges(low.shape[3], noise.shape[3]), x = Axis::edges(low.shape[4], noise.shape[4]);
    const int64_t longest = std::max({time.target, y.target, x.target}), K = static_cast<int64_t>(frames.size());
    int64_t first = 0;
    do {
        Keyframes listed{static_cast<int>(first), static_cast<int>(std::min<int64_t>(K - first, kListed)), {}};
        std::copy_n(frames.begin() + first, listed.count, listed.frame);
        launch(kName, fill_tables, dim3(static_cast<unsigned>((longest + kThreads - 1) / kThreads)), dim3(kThreads), 0,
               stream, tables, time, y, x, listed);
        first += kListed;
    } while (first < K);
}

template <typename T>
void run(const LatentAssemble& args, const Assembly& assembly, cudaStream_t stream) {
    bool aligned = assembly.W % kChunk<T> == 0 && has_aligned_rows(args.noise) && has_aligned_rows(args.out);
    if (args.keyframes) aligned = aligned && has_aligned_rows(*args.keyframes);
    if (args.source) aligned = aligned && has_aligned_rows(*args.source);
    const int64_t planes = args.low.shape[0] * assembly.C * assembly.T2;
    const int64_t runs = static_cast<int64_t>(assembly.H) * assembly.W / (aligned ? kChunk<T> : 1);
    const dim3 grid(static_cast<unsigned>(planes), static_cast<unsigned>((runs + kThreads - 1) / kThreads));
    launch(kName, aligned ? assemble<T, kChunk<T>> : assemble<T, 1>, grid, dim3(kThreads), 0, stream, assembly);
}

// The kernel counts planes and the cells of a plane in 32 bits, as the grid does.
void check_counts(const LatentAssemble& args) {
    const int64_t* target = args.noise.shape.data();
    const int64_t planes = target[0] * target[1] * target[2], cells = target[3] * target[4];
    constexpr int64_t kMostPlanes = (1ll << 31) - 1, kMostCells = 65535ll * kThreads;
    if (planes > kMostPlanes || cells > kMostCells)
        throw WrongValue(std::string(kName) + ": noise has " + std::to_string(planes) + " planes of " +
                         std::to_string(cells) + " cells, expected at most " + std::to_string(kMostPlanes) + " of " +
                         std::to_string(kMostCells));
}

}  // namespace

void latent_assemble(const LatentAssemble& args) {
    check_counts(args);
    const DeviceGuard guard(kName, args.out.device_index);
    cudaStream_t stream = to_cuda(args.stream);
    const int64_t *low = args.low.shape.data(), *target = args.noise.shape.data();
    const size_t taps = static_cast<size_t>(target[2] + target[3] + target[4]);
    const Temporary memory(kName, args.out.device_index,
                           taps * sizeof(Tap) + static_cast<size_t>(target[2]) * sizeof(int32_t), stream);
    Tables tables{};
    tables.time = memory.as<Tap>();
    tables.y = tables.time + target[2];
    tables.x = tables.y + target[3];
    tables.keyframe_of = reinterpret_cast<int32_t*>(tables.x + target[4]);
    make_tables(args, tables, stream);

    Assembly assembly{};
    assembly.low = view(args.low);
    assembly.noise = view(args.noise);
    assembly.keyframes = view(args.keyframes);
    assembly.source = view(args.source);
    assembly.mask = view(args.source_mask);
    if (args.source_mask)
        assembly.mask_kind = args.source_mask->dtype == DType::boolean ? Mask::boolean : Mask::element;
    assembly.tables = tables;
    assembly.out = args.out.data;
    const auto narrowed = [](int64_t n) { return static_cast<int32_t>(n); };
    assembly.C = narrowed(target[1]), assembly.T2 = narrowed(target[2]);
    assembly.H = narrowed(target[3]), assembly.W = narrowed(target[4]);
    assembly.T = narrowed(low[2]), assembly.h = narrowed(low[3]), assembly.w = narrowed(low[4]);
    if (args.low.dtype == DType::bfloat16)
        run<bf16>(args, assembly, stream);
    else
        run<float>(args, assembly, stream);
}

}  // namespace sky4::cuda
