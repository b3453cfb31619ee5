#include "../latent_assemble.h"

#include "borrowed.h"
#include "kernels.h"

namespace sky4 {
namespace {

void run(const py::object& low, const py::object& noise, const py::object& keyframes,
         const py::object& keyframe_indices, const py::object& source, const py::object& source_mask,
         const py::object& out, uintptr_t stream) {
    constexpr const char* kKernel = "latent_assemble";
    const auto maybe = [](const char* argument, const py::object& object) {
        return borrow_maybe(kKernel, argument, object);
    };
    const Borrowed low_held(kKernel, "low", low), noise_held(kKernel, "noise", noise);
    const auto keyframes_held = maybe("keyframes", keyframes);
    const auto indices_held = maybe("keyframe_indices", keyframe_indices);
    const auto source_held = maybe("source", source), mask_held = maybe("source_mask", source_mask);
    const Borrowed out_held(kKernel, "out", out, Borrowed::Use::write);
    const LatentAssemble args{low_held.tensor(), noise_held.tensor(), ref(keyframes_held), ref(indices_held),
                              ref(source_held),  ref(mask_held),      out_held.tensor(),   to_stream(stream)};
    const py::gil_scoped_release unlocked;
    latent_assemble(args);
}

}  // namespace

void bind_latent_assemble(py::module_& module) {
    module.def("latent_assemble", &run, py::arg("low"), py::arg("noise"), py::arg("keyframes"),
               py::arg("keyframe_indices"), py::arg("source"), py::arg("source_mask"), py::arg("out"),
               py::arg("stream") = 0,
               R"(The refiner's input, written into `out` in one pass.

low               [B, C, T, h, w]    float32 or bfloat16; the other latents have the same dtype
noise             [B, C, T2, H, W]
keyframes         [B, C, K, H, W]    or None
keyframe_indices  [K]                int64, distinct, 0 <= index < T2; or None
source            [B, C, T2, H, W]   or None
source_mask       [B, 1, T2, H, W]   bool or the latents' dtype, or None; source is taken where it is exactly 1
out               [B, 2C, T2, H, W]  contiguous: noise, then the assembled condition

Rows (the last axis) have stride 1; the other axes may lie anyhow. `out` shares no memory with the inputs.
Raises TypeError for a wrong dtype or device, ValueError for a wrong shape, stride or index.
SKY4_THREADS bounds the threads.)");
}

}  // namespace sky4
