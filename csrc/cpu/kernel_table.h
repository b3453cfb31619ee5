// The inner parts of the CPU kernels as each instruction-set level compiles them. What surrounds them (threads, memory,
// errors) is compiled once, for any processor, and calls through this table: `kernels().attend(...)`.
#pragma once

#include "attention_parts.h"

namespace sky4::cpu {

struct KernelTable {
    int lanes;      // float32 values in a vector register
    bool bf16_dot;  // bfloat16 products are summed in pairs by one instruction
    // Attention: [0] of float32, [1] of bfloat16.
    void (*pack_block[2])(const PackBlock&);
    void (*attend[2])(const AttendTile&);
    void (*lay_out[2])(const LayOut&);
    void (*row_products[2])(const Delta&);
    void (*attend_backward)(const BackwardTile&);  // float32, whatever the tensors hold
};

// One per level, defined by level.cpp as compiled for it.
namespace emulated {
extern const KernelTable table;
}
namespace portable {
extern const KernelTable table;
}
namespace avx2 {
extern const KernelTable table;
}
namespace avx512 {
extern const KernelTable table;
}
namespace avx512_bf16 {
extern const KernelTable table;
}

}  // namespace sky4::cpu
