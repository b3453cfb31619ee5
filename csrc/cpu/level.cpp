// One instruction-set level's kernels. CMake compiles this file once per level, with that level's instructions and with
//   SKY4_LEVEL     its name, which is also the namespace of everything in it,
//   SKY4_LANES     the float32 values of one vector,
//   SKY4_BF16_DOT  1 where bfloat16 products are summed in pairs (by the instruction, or emulated).
//
// The linker keeps one copy of each inline function of a name, whichever file it came from: one compiled here for
// AVX-512 must not serve the others. So whatever generates code here has internal linkage (an unnamed namespace within
// sky4::cpu::SKY4_LEVEL), and no std:: template nor inline function of csrc/*.h is called.
#include "attention_backward_level.h"
#include "attention_level.h"
#include "kernel_table.h"
#include "latent_assemble_level.h"
#include "pack_level.h"
#include "prep_backward_level.h"
#include "prep_level.h"
#include "select_cubes_level.h"

namespace sky4::cpu::SKY4_LEVEL {

const KernelTable table = {
    kLanes,
    SKY4_BF16_DOT != 0,
    {pack_block<float>, pack_block<bf16>},
    {attend<float>, attend<bf16>},
    {lay_out<float>, lay_out<bf16>},
    {row_products<float>, row_products<bf16>},
    attend_backward,
    prep_rows,
    pool_cubes,
    prep_backward_rows,
    select_rows,
    assemble_planes,
};

}  // namespace sky4::cpu::SKY4_LEVEL
