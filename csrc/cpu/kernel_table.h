// The inner parts of the CPU kernels as each instruction-set level compiles them. What surrounds them (threads, memory,
// errors) is compiled once, for any processor, and calls through this table: `kernels().attend(...)`.
#pragma once

#include "attention_parts.h"
#include "latent_assemble_planes.h"
#include "prep_rows.h"
#include "select_cubes_rows.h"

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

    // Each of these does a range of independent items with one thread's scratch.
    // Rows first .. last - 1 of sample b of `out`.
    void (*prep_rows)(const PrepRows& rows, int64_t b, int64_t first, int64_t last, float* scratch);
    // Means of cubes first .. last - 1 of sample b, of rows of `out` that are there already.
    void (*pool_cubes)(const PrepRows& rows, int64_t b, int64_t first, int64_t last, float* scratch);
    // Rows first .. last - 1 of all B * N; the weight's gradient is added to `sums` [heads_per_norm, padded] or
    // dropped.
    void (*prep_backward_rows)(const PrepBackwardRows& rows, int64_t first, int64_t last, float* scratch, float* sums);
    // Query rows first .. last - 1 of head h of sample b.
    void (*select_rows)(const SelectRows& rows, int64_t b, int64_t h, int64_t first, int64_t last, float* scratch);
    // Planes first .. last - 1 of all B * 2C * T2.
    void (*assemble_planes)(const AssemblePlanes& planes, int64_t first, int64_t last, float* scratch);
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
