#include "../qk_norm_rope.h"

#include "borrowed.h"
#include "kernels.h"

namespace sky4 {
namespace {

void run(const py::object& x, const py::object& out, const py::object& bias, const py::object& weight,
         const py::object& turn, const py::object& order, const py::object& starts, const py::object& pooled, float eps,
         uintptr_t stream) {
    constexpr const char* kKernel = "qk_norm_rope";
    const Borrowed x_held(kKernel, "x", x), out_held(kKernel, "out", out, Borrowed::Use::write);
    const auto bias_held = borrow_maybe(kKernel, "bias", bias), weight_held = borrow_maybe(kKernel, "weight", weight);
    const auto turn_held = borrow_maybe(kKernel, "turn", turn), order_held = borrow_maybe(kKernel, "order", order);
    const auto starts_held = borrow_maybe(kKernel, "starts", starts);
    const auto pooled_held = borrow_maybe(kKernel, "pooled", pooled, Borrowed::Use::write);
    QKNormRope args;
    args.x = x_held.tensor();
    args.bias = ref(bias_held);
    args.weight = ref(weight_held);
    args.turn = ref(turn_held);
    args.order = ref(order_held);
    args.starts = ref(starts_held);
    args.pooled = ref(pooled_held);
    args.out = out_held.tensor();
    args.eps = eps;
    args.stream = to_stream(stream);
    const py::gil_scoped_release unlocked;
    qk_norm_rope(args);
}

void run_backward(const py::object& x, const py::object& grad_out, const py::object& grad_x, const py::object& bias,
                  const py::object& weight, const py::object& turn, const py::object& order, const py::object& starts,
                  const py::object& grad_pooled, const py::object& grad_weight, float eps) {
    constexpr const char* kKernel = "qk_norm_rope_backward";
    const Borrowed x_held(kKernel, "x", x), grad_out_held(kKernel, "grad_out", grad_out);
    const Borrowed grad_x_held(kKernel, "grad_x", grad_x, Borrowed::Use::write);
    const auto bias_held = borrow_maybe(kKernel, "bias", bias), weight_held = borrow_maybe(kKernel, "weight", weight);
    const auto turn_held = borrow_maybe(kKernel, "turn", turn), order_held = borrow_maybe(kKernel, "order", order);
    const auto starts_held = borrow_maybe(kKernel, "starts", starts);
    const auto grad_pooled_held = borrow_maybe(kKernel, "grad_pooled", grad_pooled);
    const auto grad_weight_held = borrow_maybe(kKernel, "grad_weight", grad_weight, Borrowed::Use::write);
    QKNormRopeBackward args;
    args.x = x_held.tensor();
    args.bias = ref(bias_held);
    args.weight = ref(weight_held);
    args.turn = ref(turn_held);
    args.order = ref(order_held);
    args.starts = ref(starts_held);
    args.grad_out = grad_out_held.tensor();
    args.grad_pooled = ref(grad_pooled_held);
    args.grad_x = grad_x_held.tensor();
    args.grad_weight = ref(grad_weight_held);
    args.eps = eps;
    const py::gil_scoped_release unlocked;
    qk_norm_rope_backward(args);
}

}  // namespace

void bind_qk_norm_rope(py::module_& module) {
    module.def("qk_norm_rope", &run, py::arg("x"), py::arg("out"), py::kw_only(), py::arg("bias") = py::none(),
               py::arg("weight") = py::none(), py::arg("turn") = py::none(), py::arg("order") = py::none(),
               py::arg("starts") = py::none(), py::arg("pooled") = py::none(), py::arg("eps") = 1e-6f,
               py::arg("stream") = 0,
               R"(Bias, RMSNorm, rotary embedding and reorder of queries, keys or values, in one pass with one rounding.

x       [B, N, H, d]       float32 or bfloat16 (on CUDA also float16)
out     [B, N, H, d]       x's dtype; may be a slice of a longer buffer; shares no memory with x
bias    [H, d]             x's dtype or float32, or None; added first
weight  [d] or [H, d]      x's dtype or float32: RMSNorm over each head, or over all heads together; None: no norm
turn    [1 or B, N, d/2, 2] float32: cosine and sine for each interleaved pair of channels; None: no rotation
order   [N]                int64: row i of out is token order[i] of x; None: as they are
starts  [M + 1]            int32: cube c is rows starts[c] .. starts[c + 1] - 1 of out; with pooled
pooled  [B, M, H, d]       x's dtype: the mean of each cube's rounded rows

The last axes of x, out and pooled have stride 1, the other axes may lie anyhow; the rest is contiguous.
`order` and `starts` are trusted: their numbers must lie inside the tensors they index.
Raises TypeError for a wrong dtype or device, ValueError for a wrong shape or stride.)");
    module.def("qk_norm_rope_backward", &run_backward, py::arg("x"), py::arg("grad_out"), py::arg("grad_x"),
               py::kw_only(), py::arg("bias") = py::none(), py::arg("weight") = py::none(),
               py::arg("turn") = py::none(), py::arg("order") = py::none(), py::arg("starts") = py::none(),
               py::arg("grad_pooled") = py::none(), py::arg("grad_weight") = py::none(), py::arg("eps") = 1e-6f,
               R"(The gradients of qk_norm_rope, on the CPU: grad_x and grad_weight are written.

x, bias, weight, turn, order, starts, eps   as they were in the forward
grad_out     [B, N, H, d]         x's dtype: the gradient at out
grad_pooled  [B, M, H, d]         x's dtype: the gradient at pooled, or None (then without starts)
grad_x       [B, N, H, d]         x's dtype
grad_weight  the weight's shape   float32, contiguous; or None

Both norms are served. The bias's gradient is grad_x summed over B and N. Arithmetic is float32 with one rounding of
grad_x; the same inputs give the same bits, whatever the number of threads.
Raises TypeError for a wrong dtype or device, ValueError for a wrong shape or stride.)");
}

}  // namespace sky4
