// qk_norm_rope and its backward, one range of rows at a time: what a level's translation unit gets.
//
// B batch, N tokens, H heads, d channels per head, M cubes.
#pragma once

#include <cstdint>

#include "row_view.h"

namespace sky4::cpu {

// Heads in float32 are padded with zeros to a multiple of this: two vectors of the widest level.
constexpr int64_t kPrepPad = 32;

struct PrepRows {
    RowView x, out;
    bool is_bf16 = false;
    int64_t N = 0, H = 0, d = 0;
    int64_t padded = 0;               // d rounded up to a multiple of kPrepPad
    const float* bias = nullptr;      // [H, padded], or none
    const float* weight = nullptr;    // [heads_per_norm, padded], or none: no norm
    int64_t heads_per_norm = 1;       // 1: RMSNorm over each head; H: over all heads together
    const float* turn = nullptr;      // [1 or B, N, d / 2, 2], or none
    int64_t turn_batch = 0;           // its stride along the batch: 0 where all samples turn alike
    const int64_t* order = nullptr;   // [N]: row i of out is token order[i] of x; or none
    const int32_t* starts = nullptr;  // [M + 1]: the cubes of out's rows, or none
    int64_t M = 0;
    RowView pooled;  // [B, M, H, d], `token` being the stride of the cubes; with starts
    float eps = 0;
};

// The same with the gradients at `out` and `pooled` in their places; no pooled data: no gradient there.
struct PrepBackwardRows {
    PrepRows forward;
    RowView grad_x;
};

// float32 scratch of one thread. Forward: all heads of a token, their norms' inverses, cosines and signed sines.
inline int64_t prep_scratch(const PrepRows& rows) { return (rows.H + 2) * rows.padded + rows.H; }
// Backward: the heads of one norm, their gradients, cosines and signed sines.
inline int64_t prep_backward_scratch(const PrepRows& rows) { return (2 * rows.heads_per_norm + 2) * rows.padded; }

}  // namespace sky4::cpu
