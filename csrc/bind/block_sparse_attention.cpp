#include "../block_sparse_attention.h"

#include "borrowed.h"
#include "kernels.h"

namespace sky4 {
namespace {

void run(const py::object& queries, const py::object& keys, const py::object& values, const py::object& query_starts,
         const py::object& key_starts, const py::object& selected, const py::object& out, const py::object& text_keys,
         const py::object& text_values, const py::object& text_lengths, const py::object& lse, float scale,
         uintptr_t stream) {
    constexpr const char* kKernel = "block_sparse_attention";
    const Borrowed q(kKernel, "queries", queries), k(kKernel, "keys", keys), v(kKernel, "values", values);
    const Borrowed q_starts(kKernel, "query_starts", query_starts), k_starts(kKernel, "key_starts", key_starts);
    const Borrowed bits(kKernel, "selected", selected), out_held(kKernel, "out", out, Borrowed::Use::write);
    const auto text_k = borrow_maybe(kKernel, "text_keys", text_keys);
    const auto text_v = borrow_maybe(kKernel, "text_values", text_values);
    const auto text_counts = borrow_maybe(kKernel, "text_lengths", text_lengths);
    const auto lse_held = borrow_maybe(kKernel, "lse", lse, Borrowed::Use::write);
    const BlockSparseAttention args{q.tensor(),    k.tensor(),  v.tensor(),       q_starts.tensor(), k_starts.tensor(),
                                    bits.tensor(), ref(text_k), ref(text_v),      ref(text_counts),  out_held.tensor(),
                                    ref(lse_held), scale,       to_stream(stream)};
    const py::gil_scoped_release unlocked;
    block_sparse_attention(args);
}

void run_backward(const py::object& queries, const py::object& keys, const py::object& values,
                  const py::object& query_starts, const py::object& key_starts, const py::object& selected,
                  const py::object& out, const py::object& lse, const py::object& grad_out,
                  const py::object& grad_queries, const py::object& grad_keys, const py::object& grad_values,
                  const py::object& text_keys, const py::object& text_values, const py::object& text_lengths,
                  const py::object& grad_text_keys, const py::object& grad_text_values, float scale, uintptr_t stream) {
    constexpr const char* kKernel = "block_sparse_attention_backward";
    constexpr auto kWrite = Borrowed::Use::write;
    const Borrowed q(kKernel, "queries", queries), k(kKernel, "keys", keys), v(kKernel, "values", values);
    const Borrowed q_starts(kKernel, "query_starts", query_starts), k_starts(kKernel, "key_starts", key_starts);
    const Borrowed bits(kKernel, "selected", selected), out_held(kKernel, "out", out), lse_held(kKernel, "lse", lse);
    const Borrowed grad_out_held(kKernel, "grad_out", grad_out), dq(kKernel, "grad_queries", grad_queries, kWrite);
    const Borrowed dk(kKernel, "grad_keys", grad_keys, kWrite), dv(kKernel, "grad_values", grad_values, kWrite);
    const auto text_k = borrow_maybe(kKernel, "text_keys", text_keys);
    const auto text_v = borrow_maybe(kKernel, "text_values", text_values);
    const auto text_counts = borrow_maybe(kKernel, "text_lengths", text_lengths);
    const auto text_dk = borrow_maybe(kKernel, "grad_text_keys", grad_text_keys, kWrite);
    const auto text_dv = borrow_maybe(kKernel, "grad_text_values", grad_text_values, kWrite);
    const BlockSparseAttention forward{q.tensor(),        k.tensor(),        v.tensor(),        q_starts.tensor(),
                                       k_starts.tensor(), bits.tensor(),     ref(text_k),       ref(text_v),
                                       ref(text_counts),  out_held.tensor(), lse_held.tensor(), scale,
                                       to_stream(stream)};
    const BlockSparseAttentionBackward args{forward,     grad_out_held.tensor(), dq.tensor(), dk.tensor(),
                                            dv.tensor(), ref(text_dk),           ref(text_dv)};
    const py::gil_scoped_release unlocked;
    block_sparse_attention_backward(args);
}

}  // namespace

void bind_block_sparse_attention(py::module_& module) {
    module.def("block_sparse_attention", &run, py::arg("queries"), py::arg("keys"), py::arg("values"),
               py::arg("query_starts"), py::arg("key_starts"), py::arg("selected"), py::arg("out"), py::kw_only(),
               py::arg("text_keys") = py::none(), py::arg("text_values") = py::none(),
               py::arg("text_lengths") = py::none(), py::arg("lse") = py::none(), py::arg("scale"),
               py::arg("stream") = 0,
               R"(Attention of each query cube to its selected key cubes and to all text keys.

queries       [B, N, H, d]     in cube order; dtypes and d as for joint_attention
keys, values  [B, N_k, H, d]   in cube order
query_starts  [M_q + 1]        int32: query cube c is rows starts[c] .. starts[c + 1] - 1, at most 64
key_starts    [M_k + 1]        int32, likewise
selected      [B, H, M_q, ceil(M_k / 32)]  int32: bit k % 32 of word k / 32 selects key cube k
out           [B, N, H, d]     written
text_keys, text_values  [B, N_t, H, d], or None; always attended
text_lengths  [B]              int32, or None where all text keys count
lse           [B, H, N]        float32, written; or None

Where a query cube selects nothing and there is no text, out is zero and lse -inf. The numbers in the starts are trusted.
Raises TypeError or ValueError naming the argument.)");
    module.def("block_sparse_attention_backward", &run_backward, py::arg("queries"), py::arg("keys"), py::arg("values"),
               py::arg("query_starts"), py::arg("key_starts"), py::arg("selected"), py::arg("out"), py::arg("lse"),
               py::arg("grad_out"), py::arg("grad_queries"), py::arg("grad_keys"), py::arg("grad_values"),
               py::kw_only(), py::arg("text_keys") = py::none(), py::arg("text_values") = py::none(),
               py::arg("text_lengths") = py::none(), py::arg("grad_text_keys") = py::none(),
               py::arg("grad_text_values") = py::none(), py::arg("scale"), py::arg("stream") = 0,
               R"(The gradients of block_sparse_attention, written into the grad_* tensors; the rest as there.

The same inputs give the same bits. Nothing flows into `selected`.)");
}

}  // namespace sky4
