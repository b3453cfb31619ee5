// latent_assemble on the CPU.
//
// B batch, C latent channels, T -> T2 latent frames, h, w -> H, W latent grid, K keyframes.
//
// out[:, :C] = noise
// out[:, C:] = source     where source_mask is exactly 1,
//              keyframes  else, in the frames named by keyframe_indices,
//              low        else, linearly interpolated: along y, then time, then x, in float32, rounded once.
//
// Grids. Time aligns its corners: frame j of T2 lies at j (T-1) / (T2-1), so that with T2 = 2T - 1 frame 2j is frame j.
// Space aligns its pixel edges: cell y of H lies at (y + 1/2) h / H - 1/2, clamped to the grid.
// Both are computed in whole numbers, so that a frame or cell that coincides with a low one is copied exactly.

#include "../latent_assemble.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "../check.h"
#include "parallel.h"

namespace sky4::cpu {
namespace {

constexpr const char* kName = "latent_assemble";
// A share of less than this many output cells is done sooner than a thread starts (about 20 us).
constexpr int64_t kCellsPerThread = 32768;

// Where each target index of one axis reads: low index, its upper neighbour, and the neighbour's weight.
struct Axis {
    std::vector<int64_t> low, high;
    std::vector<float> weight;

    Axis(int64_t size, int64_t target, int64_t start, int64_t step, int64_t denominator)
        : low(target), high(target), weight(target) {
        for (int64_t i = 0; i < target; ++i) {
            const int64_t position = std::max<int64_t>(start + step * i, 0);  // in units of 1 / denominator
            low[i] = std::min(position / denominator, size - 1);
            high[i] = std::min(low[i] + 1, size - 1);
            weight[i] = static_cast<float>(static_cast<double>(position % denominator) / denominator);
        }
    }

    static Axis corners(int64_t size, int64_t target) {
        return Axis(size, target, 0, size - 1, std::max<int64_t>(target - 1, 1));
    }
    static Axis edges(int64_t size, int64_t target) { return Axis(size, target, size - target, 2 * size, 2 * target); }
};

inline float mix(float a, float b, float weight) { return a * (1.0f - weight) + b * weight; }

template <typename T>
const T* row(const TensorRef& x, int64_t b, int64_t c, int64_t t, int64_t y) {
    return x.as<const T>() + b * x.stride[0] + c * x.stride[1] + t * x.stride[2] + y * x.stride[3];
}

template <typename T>
class Assembler {
public:
    explicit Assembler(const LatentAssemble& args)
        : args_(args),
          C_(args.low.shape[1]),
          T2_(args.noise.shape[2]),
          H_(args.noise.shape[3]),
          W_(args.noise.shape[4]),
          time_(Axis::corners(args.low.shape[2], T2_)),
          y_(Axis::edges(args.low.shape[3], H_)),
          x_(Axis::edges(args.low.shape[4], W_)),
          keyframe_of_(T2_, -1) {
        if (!args.keyframe_indices) return;
        const TensorRef& indices = *args.keyframe_indices;
        for (int64_t k = 0; k < indices.shape[0]; ++k) {
            const int64_t frame = indices.as<const int64_t>()[k * indices.stride[0]];
            if (frame < 0 || frame >= T2_)
                throw WrongValue(std::string(kName) + ": keyframe_indices holds " + std::to_string(frame) +
                                 ", expected 0 to " + std::to_string(T2_ - 1));
            if (keyframe_of_[frame] >= 0)
                throw WrongValue(std::string(kName) + ": keyframe_indices holds " + std::to_string(frame) +
                                 " twice, expected distinct frames");
            keyframe_of_[frame] = k;
        }
    }

    void run() const {
        const int64_t planes = args_.out.shape[0] * 2 * C_ * T2_;
        const int64_t planes_per_thread = (kCellsPerThread + H_ * W_ - 1) / (H_ * W_);
        const int64_t threads = thread_limit(), w = args_.low.shape[4];
        // One low row of scratch for each thread, taken here, because a thread that runs out of memory cannot say so.
        std::vector<float> lines(static_cast<size_t>(threads * w));
        parallel_for(planes, planes_per_thread, threads, [&](int64_t share, int64_t first, int64_t last) noexcept {
            for (int64_t plane = first; plane < last; ++plane) fill(plane, lines.data() + share * w);
        });
    }

private:
    void fill(int64_t plane, float* line) const {
        const int64_t t = plane % T2_, channel = plane / T2_ % (2 * C_), b = plane / T2_ / (2 * C_);
        T* out = args_.out.as<T>() + plane * H_ * W_;
        const bool condition = channel >= C_;
        const int64_t c = condition ? channel - C_ : channel;
        for (int64_t y = 0; y < H_; ++y, out += W_) {
            if (!condition) {
                copy(out, row<T>(args_.noise, b, c, t, y));
                continue;
            }
            if (keyframe_of_[t] >= 0)
                copy(out, row<T>(*args_.keyframes, b, c, keyframe_of_[t], y));
            else
                interpolate(out, line, b, c, t, y);
            if (args_.source) paste(out, b, c, t, y);
        }
    }

    void copy(T* out, const T* in) const { std::memcpy(out, in, static_cast<size_t>(W_) * sizeof(T)); }

    void interpolate(T* out, float* line, int64_t b, int64_t c, int64_t t, int64_t y) const {
        const int64_t t0 = time_.low[t], t1 = time_.high[t], y0 = y_.low[y], y1 = y_.high[y];
        const float wt = time_.weight[t], wy = y_.weight[y];
        const T *a = row<T>(args_.low, b, c, t0, y0), *a_below = row<T>(args_.low, b, c, t0, y1);
        const T *z = row<T>(args_.low, b, c, t1, y0), *z_below = row<T>(args_.low, b, c, t1, y1);
        const int64_t w = args_.low.shape[4];
        for (int64_t x = 0; x < w; ++x)
            line[x] =
                mix(mix(to_float(a[x]), to_float(a_below[x]), wy), mix(to_float(z[x]), to_float(z_below[x]), wy), wt);
        for (int64_t x = 0; x < W_; ++x) out[x] = from_float<T>(mix(line[x_.low[x]], line[x_.high[x]], x_.weight[x]));
    }

    void paste(T* out, int64_t b, int64_t c, int64_t t, int64_t y) const {
        const T* source = row<T>(*args_.source, b, c, t, y);
        if (args_.source_mask->dtype == DType::boolean) {
            const uint8_t* keep = row<uint8_t>(*args_.source_mask, b, 0, t, y);
            for (int64_t x = 0; x < W_; ++x)
                if (keep[x] != 0) out[x] = source[x];
        } else {
            const T* keep = row<T>(*args_.source_mask, b, 0, t, y);
            for (int64_t x = 0; x < W_; ++x)
                if (to_float(keep[x]) == 1.0f) out[x] = source[x];
        }
    }

    const LatentAssemble& args_;
    int64_t C_, T2_, H_, W_;
    Axis time_, y_, x_;
    std::vector<int64_t> keyframe_of_;  // per target frame: its keyframe, or -1
};

}  // namespace

void latent_assemble(const LatentAssemble& args) {
    if (args.low.dtype == DType::bfloat16)
        Assembler<bf16>(args).run();
    else
        Assembler<float>(args).run();
}

}  // namespace sky4::cpu
