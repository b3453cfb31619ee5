// Stands in for kernels that are still to come; each goes as its kernel lands.
#include "../check.h"
#include "../qk_norm_rope.h"
#include "../select_cubes.h"

namespace sky4::cpu {
void select_cubes(const SelectCubes&) { throw WrongValue("not there yet"); }
void qk_norm_rope(const QKNormRope&) { throw WrongValue("not there yet"); }
}  // namespace sky4::cpu
