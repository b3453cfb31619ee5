#include "block_sparse_attention.h"

#include <string>

#include "attention_checks.h"
#include "dispatch.h"

namespace sky4 {
namespace {

void check_starts(const char* kernel, const char* argument, const TensorRef& x, const TensorRef& first) {
    const Checked checked(kernel, argument, x);
    checked.is_on(first.device).has_dtype(DType::int32).has_ndim(1).is_contiguous().is_not_empty();
}

int64_t tokens_of(const TensorRef& x) { return x.ndim > 1 ? x.shape[1] : 0; }

void check(const char* kernel, const BlockSparseAttention& args) {
    const TensorRef& first = args.queries;
    check_first(kernel, "queries", first);
    check_tokens(kernel, "keys", args.keys, first, tokens_of(args.keys));
    check_tokens(kernel, "values", args.values, first, args.keys.shape[1]);
    check_starts(kernel, "query_starts", args.query_starts, first);
    check_starts(kernel, "key_starts", args.key_starts, first);
    const int64_t query_cubes = args.query_starts.shape[0] - 1, key_cubes = args.key_starts.shape[0] - 1;
    const Checked selected(kernel, "selected", args.selected);
    selected.is_on(first.device).has_dtype(DType::int32);
    selected.has_shape({first.shape[0], first.shape[2], query_cubes, (key_cubes + 31) / 32}).is_contiguous();
    if (args.text_keys.has_value() != args.text_values.has_value())
        throw WrongValue(std::string(kernel) + ": text_keys and text_values come together, got one without the other");
    if (args.text_keys) {
        check_tokens(kernel, "text_keys", *args.text_keys, first, tokens_of(*args.text_keys));
        check_tokens(kernel, "text_values", *args.text_values, first, args.text_keys->shape[1]);
    }
    if (args.text_lengths) {
        if (!args.text_keys)
            throw WrongValue(std::string(kernel) + ": text_lengths comes with text_keys, got it alone");
        check_lengths(kernel, "text_lengths", *args.text_lengths, first);
    }
    check_tokens(kernel, "out", args.out, first, first.shape[1]);
    if (args.lse) check_lse(kernel, *args.lse, first, first.shape[1]);
}

}  // namespace

void block_sparse_attention(const BlockSparseAttention& args) {
    constexpr const char* kName = "block_sparse_attention";
    check(kName, args);
    on_device(kName, args.out.device, args, cpu::block_sparse_attention, SKY4_ON_CUDA(cuda::block_sparse_attention));
}

void block_sparse_attention_backward(const BlockSparseAttentionBackward& args) {
    constexpr const char* kName = "block_sparse_attention_backward";
    const BlockSparseAttention& forward = args.forward;
    check(kName, forward);
    if (!forward.lse) throw WrongValue(std::string(kName) + ": lse is missing, expected that of the forward");
    const TensorRef& first = forward.queries;
    check_tokens(kName, "grad_out", args.grad_out, first, first.shape[1]);
    check_tokens(kName, "grad_queries", args.grad_queries, first, first.shape[1]);
    check_tokens(kName, "grad_keys", args.grad_keys, first, forward.keys.shape[1]);
    check_tokens(kName, "grad_values", args.grad_values, first, forward.keys.shape[1]);
    if (args.grad_text_keys.has_value() != forward.text_keys.has_value() ||
        args.grad_text_values.has_value() != forward.text_keys.has_value())
        throw WrongValue(std::string(kName) + ": grad_text_keys and grad_text_values come with text_keys");
    if (forward.text_keys) {
        check_tokens(kName, "grad_text_keys", *args.grad_text_keys, first, forward.text_keys->shape[1]);
        check_tokens(kName, "grad_text_values", *args.grad_text_values, first, forward.text_keys->shape[1]);
    }
    on_device(kName, forward.out.device, args, cpu::block_sparse_attention_backward,
              SKY4_ON_CUDA(cuda::block_sparse_attention_backward));
}

}  // namespace sky4
