#include "../joint_attention.h"

#include <vector>

#include "borrowed.h"
#include "kernels.h"

namespace sky4 {
namespace {

// The memory behind a list of tensors, as the segments of an attention.
class BorrowedSegments {
public:
    BorrowedSegments(const char* kernel, const char* argument, const py::sequence& objects,
                     Borrowed::Use use = Borrowed::Use::read) {
        const size_t count = objects.size();
        if (count > AttentionSegments::kMax)
            throw WrongValue(std::string(kernel) + ": " + argument + " holds " + std::to_string(count) +
                             " segments, expected 1 to " + std::to_string(AttentionSegments::kMax));
        held_.reserve(count);
        for (size_t i = 0; i < count; ++i) {
            const std::string name = std::string(argument) + "[" + std::to_string(i) + "]";
            held_.push_back(borrow_maybe(kernel, name.c_str(), objects[i], use));
            if (held_.back()) segments_.part[i] = held_.back()->tensor();
        }
        segments_.count = static_cast<int>(count);
    }

    const AttentionSegments& segments() const { return segments_; }
    std::optional<TensorRef> at(size_t i) const {
        return i < held_.size() ? ref(held_[i]) : std::nullopt;  // NOLINT: a missing length is no length
    }

private:
    std::vector<std::optional<Borrowed>> held_;
    AttentionSegments segments_;
};

void run(const py::sequence& queries, const py::sequence& keys, const py::sequence& values, const py::object& out,
         const py::sequence& lengths, const py::object& lse, float scale, uintptr_t stream) {
    constexpr const char* kKernel = "joint_attention";
    const BorrowedSegments q(kKernel, "queries", queries), k(kKernel, "keys", keys), v(kKernel, "values", values);
    const BorrowedSegments counts(kKernel, "lengths", lengths);
    const Borrowed out_held(kKernel, "out", out, Borrowed::Use::write);
    const auto lse_held = borrow_maybe(kKernel, "lse", lse, Borrowed::Use::write);
    JointAttention args;
    args.queries = q.segments();
    args.keys = k.segments();
    args.values = v.segments();
    for (int i = 0; i < AttentionSegments::kMax; ++i) args.lengths[i] = counts.at(i);
    args.out = out_held.tensor();
    args.lse = ref(lse_held);
    args.scale = scale;
    args.stream = to_stream(stream);
    const py::gil_scoped_release unlocked;
    joint_attention(args);
}

void run_backward(const py::sequence& queries, const py::sequence& keys, const py::sequence& values,
                  const py::object& out, const py::object& lse, const py::object& grad_out,
                  const py::sequence& grad_queries, const py::sequence& grad_keys, const py::sequence& grad_values,
                  const py::sequence& lengths, float scale, uintptr_t stream) {
    constexpr const char* kKernel = "joint_attention_backward";
    const BorrowedSegments q(kKernel, "queries", queries), k(kKernel, "keys", keys), v(kKernel, "values", values);
    const BorrowedSegments counts(kKernel, "lengths", lengths);
    const Borrowed out_held(kKernel, "out", out), lse_held(kKernel, "lse", lse);
    const Borrowed grad_out_held(kKernel, "grad_out", grad_out);
    const BorrowedSegments dq(kKernel, "grad_queries", grad_queries, Borrowed::Use::write);
    const BorrowedSegments dk(kKernel, "grad_keys", grad_keys, Borrowed::Use::write);
    const BorrowedSegments dv(kKernel, "grad_values", grad_values, Borrowed::Use::write);
    JointAttentionBackward args;
    args.forward.queries = q.segments();
    args.forward.keys = k.segments();
    args.forward.values = v.segments();
    for (int i = 0; i < AttentionSegments::kMax; ++i) args.forward.lengths[i] = counts.at(i);
    args.forward.out = out_held.tensor();
    args.forward.lse = lse_held.tensor();
    args.forward.scale = scale;
    args.forward.stream = to_stream(stream);
    args.grad_out = grad_out_held.tensor();
    args.grad_queries = dq.segments();
    args.grad_keys = dk.segments();
    args.grad_values = dv.segments();
    const py::gil_scoped_release unlocked;
    joint_attention_backward(args);
}

}  // namespace

void bind_joint_attention(py::module_& module) {
    module.def("joint_attention", &run, py::arg("queries"), py::arg("keys"), py::arg("values"), py::arg("out"),
               py::kw_only(), py::arg("lengths") = py::tuple(), py::arg("lse") = py::none(), py::arg("scale"),
               py::arg("stream") = 0,
               R"(softmax(scale Q KT) V, where Q, K and V are the given segments one after the other.

queries  up to 4 of [B, L_i, H, d]  float32 or bfloat16 on the CPU, bfloat16 or float16 on CUDA; d 32, 64, 96 or 128
keys     up to 4 of [B, L_j, H, d]
values   like keys
out      [B, sum L_i, H, d]         written
lengths  per key segment [B] int32, or None where all its keys count; fewer entries than segments: None
lse      [B, H, sum L_i]            float32, contiguous, written: log-sum-exp of the scaled scores; or None

Last axes have stride 1; the other axes may lie anyhow. A sample without keys gets zeros and an lse of -inf.
Raises TypeError for a wrong dtype or device, ValueError for a wrong shape, stride or number of segments.)");
    module.def("joint_attention_backward", &run_backward, py::arg("queries"), py::arg("keys"), py::arg("values"),
               py::arg("out"), py::arg("lse"), py::arg("grad_out"), py::arg("grad_queries"), py::arg("grad_keys"),
               py::arg("grad_values"), py::kw_only(), py::arg("lengths") = py::tuple(), py::arg("scale"),
               py::arg("stream") = 0,
               R"(The gradients of joint_attention's queries, keys and values, written into the grad_* segments.

`out` and `lse` are the forward's, `grad_out` [B, sum L_i, H, d] the gradient at its output; the rest as there.
Keys beyond their length get zero gradients. The same inputs give the same bits.)");
}

}  // namespace sky4
