#include "../cpu/isa.h"

#include <pybind11/stl.h>

#include "kernels.h"

namespace sky4 {

void bind_isa(pybind11::module_& module) {
    namespace py = pybind11;
    module.def(
        "isa", [] { return std::string(cpu::name(cpu::isa())); },
        R"(The instruction-set level of the CPU kernels: the widest of isa_levels(), or the one SKY4_ISA names.

Raises ValueError where SKY4_ISA names none of them.)");
    module.def(
        "isa_levels",
        [] {
            std::vector<std::string> names;
            for (const cpu::Isa isa : cpu::isa_levels()) names.emplace_back(cpu::name(isa));
            return names;
        },
        "The levels that this processor runs, the narrowest first; `emulated` is slow and there for tests.");
    module.def(
        "set_isa", [](const std::string& name) { cpu::set_isa(name); }, py::arg("name"),
        "Run the CPU kernels at this level from now on, in all threads; for tests. Raises ValueError as isa().");
}

}  // namespace sky4
