// bfloat16 as the kernels use it; see cuda_runtime.h beside this.
#pragma once

#include "../../tensor.h"

struct __nv_bfloat16 {
    uint16_t bits;
};

inline __nv_bfloat16 __float2bfloat16_rn(float x) { return {sky4::from_float<sky4::bf16>(x).bits}; }
inline uint16_t __bfloat16_as_ushort(__nv_bfloat16 x) { return x.bits; }
