#include "isa.h"

#include <atomic>
#include <cstdlib>

#include "../check.h"

namespace sky4::cpu {
namespace {

struct Level {
    Isa isa;
    const char* name;
    const KernelTable* table;  // null: not in this build
};

constexpr Level kLevels[] = {
    {Isa::emulated, "emulated", &emulated::table},
    {Isa::portable, "portable", &portable::table},
#ifdef SKY4_X86_LEVELS
    {Isa::avx2, "avx2", &avx2::table},
    {Isa::avx512, "avx512", &avx512::table},
    {Isa::avx512_bf16, "avx512_bf16", &avx512_bf16::table},
#else
    {Isa::avx2, "avx2", nullptr},
    {Isa::avx512, "avx512", nullptr},
    {Isa::avx512_bf16, "avx512_bf16", nullptr},
#endif
};

// The compiler's own cpuid, which also asks (xgetbv) whether the system saves the registers.
bool processor_runs(Isa isa) {
#ifdef SKY4_X86_LEVELS
    const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                            __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    if (isa == Isa::avx2) return has_avx2;
    if (isa == Isa::avx512) return has_avx512;
    if (isa == Isa::avx512_bf16) return has_avx512 && __builtin_cpu_supports("avx512bf16");
#endif
    return isa == Isa::portable || isa == Isa::emulated;
}

const Level& find(const char* argument, const std::string& wanted) {
    std::string available;
    for (const Level& level : kLevels) {
        if (level.table == nullptr || !processor_runs(level.isa)) continue;
        if (wanted == level.name) return level;
        available += (available.empty() ? "" : ", ") + std::string(level.name);
    }
    throw WrongValue(std::string(argument) + " is '" + wanted +
                     "', expected one that this processor runs: " + available);
}

const Level& choose() {
    const char* wanted = std::getenv("SKY4_ISA");
    if (wanted != nullptr && *wanted != '\0') return find("SKY4_ISA", wanted);
    return find("isa", name(isa_levels().back()));
}

std::atomic<const Level*> chosen{nullptr};

// Chosen at the first use rather than at load, so that a wrong SKY4_ISA is an error of a call, not of an import.
const Level& level() {
    const Level* found = chosen.load(std::memory_order_acquire);
    if (found == nullptr) chosen.store(found = &choose(), std::memory_order_release);
    return *found;
}

}  // namespace

const char* name(Isa isa) { return kLevels[static_cast<int>(isa)].name; }

std::vector<Isa> isa_levels() {
    std::vector<Isa> levels;
    for (const Level& level : kLevels)
        if (level.table != nullptr && processor_runs(level.isa)) levels.push_back(level.isa);
    return levels;
}

Isa isa() { return level().isa; }
void set_isa(const std::string& name) { chosen.store(&find("isa", name), std::memory_order_release); }
const KernelTable& kernels() { return *level().table; }

}  // namespace sky4::cpu
