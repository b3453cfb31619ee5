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
#include <string>
#include <vector>

#include "../check.h"
#include "isa.h"
#include "latent_assemble_planes.h"
#include "parallel.h"

namespace sky4::cpu {
namespace {

constexpr const char* kName = "latent_assemble";
// A share of less than this many output cells is done sooner than a thread wakes up.
constexpr int64_t kCellsPerThread = 32768;

// Where each target index of one axis reads. The tables go on for kAssemblePad harmless entries.
class Axis {
public:
    static Axis corners(int64_t size, int64_t target) {
        return Axis(size, target, 0, size - 1, std::max<int64_t>(target - 1, 1));
    }
    static Axis edges(int64_t size, int64_t target) { return Axis(size, target, size - target, 2 * size, 2 * target); }

    AxisTable table() const { return {low_.data(), high_.data(), weight_.data()}; }

private:
    Axis(int64_t size, int64_t target, int64_t start, int64_t step, int64_t denominator)
        : low_(target + kAssemblePad, static_cast<int32_t>(size - 1)), high_(low_), weight_(target + kAssemblePad) {
        for (int64_t i = 0; i < target; ++i) {
            const int64_t position = std::max<int64_t>(start + step * i, 0);  // in units of 1 / denominator
            low_[i] = static_cast<int32_t>(std::min(position / denominator, size - 1));
            high_[i] = static_cast<int32_t>(std::min<int64_t>(low_[i] + 1, size - 1));
            weight_[i] = static_cast<float>(static_cast<double>(position % denominator) / denominator);
        }
    }

    std::vector<int32_t> low_, high_;
    std::vector<float> weight_;
};

Grid grid_of(const std::optional<TensorRef>& x) {
    if (!x) return {};
    return {x->data, x->stride[0], x->stride[1], x->stride[2], x->stride[3]};
}

// Per target frame: its keyframe, or -1.
std::vector<int64_t> keyframes_of(const LatentAssemble& args) {
    const int64_t frames = args.noise.shape[2];
    std::vector<int64_t> keyframe_of(static_cast<size_t>(frames), -1);
    if (!args.keyframe_indices) return keyframe_of;
    const TensorRef& indices = *args.keyframe_indices;
    for (int64_t k = 0; k < indices.shape[0]; ++k) {
        const int64_t frame = indices.as<const int64_t>()[k * indices.stride[0]];
        if (frame < 0 || frame >= frames)
            throw WrongValue(std::string(kName) + ": keyframe_indices holds " + std::to_string(frame) +
                             ", expected 0 to " + std::to_string(frames - 1));
        if (keyframe_of[frame] >= 0)
            throw WrongValue(std::string(kName) + ": keyframe_indices holds " + std::to_string(frame) +
                             " twice, expected distinct frames");
        keyframe_of[frame] = k;
    }
    return keyframe_of;
}

}  // namespace

void latent_assemble(const LatentAssemble& args) {
    const TensorRef &low = args.low, &noise = args.noise;
    const std::vector<int64_t> keyframe_of = keyframes_of(args);
    const Axis time = Axis::corners(low.shape[2], noise.shape[2]);
    const Axis y = Axis::edges(low.shape[3], noise.shape[3]), x = Axis::edges(low.shape[4], noise.shape[4]);

    AssemblePlanes planes;
    planes.low = grid_of(low), planes.noise = grid_of(noise), planes.keyframes = grid_of(args.keyframes);
    planes.source = grid_of(args.source), planes.mask = grid_of(args.source_mask);
    planes.mask_is_bytes = args.source_mask && args.source_mask->dtype == DType::boolean;
    planes.is_bf16 = low.dtype == DType::bfloat16;
    planes.C = low.shape[1], planes.T2 = noise.shape[2], planes.H = noise.shape[3], planes.W = noise.shape[4];
    planes.low_width = low.shape[4];
    planes.time = time.table(), planes.y = y.table(), planes.x = x.table();
    planes.keyframe_of = keyframe_of.data();
    planes.out = args.out.data;

    const int64_t cells = planes.H * planes.W, threads = thread_limit(), size = assemble_scratch(planes);
    const KernelTable& level = kernels();
    std::vector<float> scratch(static_cast<size_t>(threads * size));
    parallel_for(noise.shape[0] * 2 * planes.C * planes.T2, (kCellsPerThread + cells - 1) / cells, threads,
                 [&](int64_t share, int64_t first, int64_t last) noexcept {
                     level.assemble_planes(planes, first, last, scratch.data() + share * size);
                 });
}

}  // namespace sky4::cpu
