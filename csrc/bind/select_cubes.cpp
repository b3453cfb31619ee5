#include "../select_cubes.h"

#include "borrowed.h"
#include "kernels.h"

namespace sky4 {
namespace {

void run(const py::object& queries, const py::object& keys, int64_t keep, const py::object& selected,
         uintptr_t stream) {
    constexpr const char* kKernel = "select_cubes";
    const Borrowed queries_held(kKernel, "queries", queries), keys_held(kKernel, "keys", keys);
    const Borrowed selected_held(kKernel, "selected", selected, Borrowed::Use::write);
    const SelectCubes args{queries_held.tensor(), keys_held.tensor(), keep, selected_held.tensor(), to_stream(stream)};
    const py::gil_scoped_release unlocked;
    select_cubes(args);
}

}  // namespace

void bind_select_cubes(py::module_& module) {
    module.def("select_cubes", &run, py::arg("queries"), py::arg("keys"), py::arg("keep"), py::arg("selected"),
               py::kw_only(), py::arg("stream") = 0,
               R"(For every query cube the `keep` key cubes of the highest score q·k, as bits.

queries   [B, M_q, H, d]                   pooled queries, float32 or bfloat16 (on CUDA also float16)
keys      [B, M_k, H, d]                   the same dtype
keep      1 .. M_k
selected  [B, H, M_q, ceil(M_k / 32)]      int32, contiguous, written: exactly `keep` bits per row

Of equal scores the lower index wins; NaN comes last. Raises TypeError or ValueError naming the argument.)");
}

}  // namespace sky4
