// Every CPU kernel on small odd shapes, through the functions of csrc/*.h, against loops in float64. No framework and
// no OpenMP in this process, so that the sanitizers see all there is. Exits with 1 where a number is wrong; SKY4_ISA
// chooses the instruction-set level.
#include <cstdlib>

#include "../cpu/isa.h"
#include "cpu_attention_cases.h"
#include "cpu_row_cases.h"

int main() {
    using namespace sky4;
    using namespace sky4::cases;
    Verdict verdict;
    std::printf("level %s\n", cpu::name(cpu::isa()));
    for (const DType dtype : {DType::float32, DType::bfloat16}) {
        for (const Norm norm : {Norm::none, Norm::head, Norm::all})
            for (const bool cubes : {false, true}) {
                qk_norm_rope_case(verdict, dtype, norm, cubes, 2, 9, 3, 6);
                qk_norm_rope_case(verdict, dtype, norm, cubes, 1, 333, 2, 34);
                qk_norm_rope_case(verdict, dtype, norm, cubes, 1, 70, 3, 128);
                qk_norm_rope_case(verdict, dtype, norm, cubes, 1, 1, 1, 1);
            }
        select_cubes_case(verdict, dtype, 1, 1, 1, 1, 32, 1);
        select_cubes_case(verdict, dtype, 2, 35, 33, 2, 5, 9);
        select_cubes_case(verdict, dtype, 1, 70, 200, 3, 64, 67);
        select_cubes_case(verdict, dtype, 1, 7, 96, 1, 40, 96);
        for (const bool byte_mask : {false, true}) {
            latent_assemble_case(verdict, dtype, byte_mask, {3, 4, 5}, {5, 8, 10});
            latent_assemble_case(verdict, dtype, byte_mask, {5, 7, 19}, {9, 17, 45});
            latent_assemble_case(verdict, dtype, byte_mask, {4, 9, 20}, {3, 5, 7});
            latent_assemble_case(verdict, dtype, byte_mask, {1, 1, 1}, {1, 3, 1});
            latent_assemble_case(verdict, dtype, byte_mask, {5, 15, 20}, {9, 60, 80});
        }
        joint_attention_case(verdict, dtype, 1, 1, 0, 32);
        joint_attention_case(verdict, dtype, 65, 7, 5, 64);
        joint_attention_case(verdict, dtype, 131, 77, 77, 96);
        joint_attention_case(verdict, dtype, 50, 0, 0, 128);
        block_sparse_attention_case(verdict, dtype, 1, 0, 32);
        block_sparse_attention_case(verdict, dtype, 150, 0, 64);
        block_sparse_attention_case(verdict, dtype, 213, 19, 128);
    }
    return verdict.end();
}
