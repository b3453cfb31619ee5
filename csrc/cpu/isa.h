// Which instruction set the CPU kernels run with: the widest that the processor has, or the one SKY4_ISA names.
#pragma once

#include <string>
#include <vector>

#include "kernel_table.h"

namespace sky4::cpu {

// In ascending order of preference. `emulated` runs anywhere and is never chosen by itself: it is avx512_bf16's code
// with its instructions spelled out in C++, so that tests reach it on every processor.
enum class Isa { emulated, portable, avx2, avx512, avx512_bf16 };

const char* name(Isa isa);
std::vector<Isa> isa_levels();  // those that this build has and this processor runs, `emulated` included

// The level in use. Throws WrongValue where SKY4_ISA names one that is not among isa_levels().
Isa isa();
void set_isa(const std::string& name);  // from now on, in all threads; for tests

// The kernels of the level in use.
const KernelTable& kernels();

}  // namespace sky4::cpu
