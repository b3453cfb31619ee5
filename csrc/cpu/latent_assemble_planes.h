// latent_assemble, one range of planes [H, W] of `out` at a time: what a level's translation unit gets.
#pragma once

#include <cstdint>

namespace sky4::cpu {

// A [B, C, T, H, W] tensor, or none; strides in elements, that of W is 1.
struct Grid {
    const void* data = nullptr;
    int64_t batch = 0, channel = 0, frame = 0, row = 0;
};

// Where each target index of one axis reads: low index, its upper neighbour, and the neighbour's weight.
struct AxisTable {
    const int32_t* low = nullptr;
    const int32_t* high = nullptr;
    const float* weight = nullptr;
};

struct AssemblePlanes {
    Grid low, noise, keyframes, source, mask;
    bool mask_is_bytes = false;  // else it has the latents' type
    bool is_bf16 = false;
    int64_t C = 0, T2 = 0, H = 0, W = 0, low_width = 0;
    AxisTable time, y, x;                  // x's tables go on to a multiple of kAssemblePad
    const int64_t* keyframe_of = nullptr;  // [T2]: its keyframe, or -1
    void* out = nullptr;                   // [B, 2 C, T2, H, W] contiguous
};

// Lanes of the widest level: a whole vector may be read beyond the end of x's tables and of a low row in scratch.
constexpr int64_t kAssemblePad = 16;

// float32 scratch of one thread: the level's tables of the x axis, and a low row interpolated along y and time.
inline int64_t assemble_scratch(const AssemblePlanes& planes) {
    return 4 * (planes.W + kAssemblePad) + planes.low_width + kAssemblePad;
}

}  // namespace sky4::cpu
