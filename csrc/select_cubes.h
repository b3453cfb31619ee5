// The coarse stage's choice: for every query cube the `keep` key cubes of the highest score q·k.
//
// B batch, M_q, M_k cubes, H heads, d channels per head.
#pragma once

#include "tensor.h"

namespace sky4 {

struct SelectCubes {
    TensorRef queries;   // [B, M_q, H, d] pooled queries, float32, bfloat16 or (CUDA) float16; last stride 1
    TensorRef keys;      // [B, M_k, H, d], the same dtype
    int64_t keep = 1;    // 1 .. M_k
    TensorRef selected;  // [B, H, M_q, ceil(M_k / 32)] int32 contiguous: exactly `keep` bits per row are set
    void* stream = nullptr;
};

// Scores are float32 sums; of equal scores the lower index wins; NaN comes last. No [M_q, M_k] matrix of a whole head
// is held at large sizes.
void select_cubes(const SelectCubes& args);

namespace cpu {
void select_cubes(const SelectCubes& args);
}
namespace cuda {
void select_cubes(const SelectCubes& args);
}

}  // namespace sky4
