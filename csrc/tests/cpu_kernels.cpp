// Every CPU kernel on small and awkward shapes at the instruction-set level of SKY4_ISA, against the portable level on
// the same bits: what the sanitizers watch in scripts/test_native. The exit code is the number of cases that failed.
//
//   cpu_kernels [PART OF A CASE'S NAME]
#include "../cpu/isa.h"
#include "kernel_cases.h"

int main(int count, char** arguments) {
    using namespace sky4::cases;
    const std::string level = sky4::cpu::name(sky4::cpu::isa());
    return run_cases(count > 1 ? arguments[1] : "", {sky4::DType::float32, sky4::DType::bfloat16},
                     [&](const Case& tried, sky4::DType dtype) {
                         sky4::cpu::set_isa("portable");
                         return fault_of(tried, dtype, kHere, [&] { sky4::cpu::set_isa(level); }, kHere);
                     });
}
