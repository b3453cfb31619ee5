// The Python module _emulated_cuda: the bindings of sky4._C over the CUDA kernels' own sources, run by ../emulation on
// tensors of the CPU. The checks of csrc/*.cpp are left out: they know where a CUDA tensor must lie.
#include <pybind11/pybind11.h>

#include "../../bind/kernels.h"
#include "../../check.h"
#include "../../latent_assemble.h"
#include "../../qk_norm_rope.h"
#include "../../select_cubes.h"

namespace sky4 {

void latent_assemble(const LatentAssemble& args) { cuda::latent_assemble(args); }
void qk_norm_rope(const QKNormRope& args) { cuda::qk_norm_rope(args); }
void select_cubes(const SelectCubes& args) { cuda::select_cubes(args); }

// Bound beside qk_norm_rope, and there for the CPU alone.
void qk_norm_rope_backward(const QKNormRopeBackward&) { throw WrongValue("qk_norm_rope_backward: not on CUDA"); }

}  // namespace sky4

PYBIND11_MODULE(_emulated_cuda, module) {
    sky4::bind_latent_assemble(module);
    sky4::bind_qk_norm_rope(module);
    sky4::bind_select_cubes(module);
}
