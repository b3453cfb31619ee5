#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>

#include "../../check.h"
#include "../device.h"
#include "attention.h"
#include "sparse.h"
#include "tensor_map.h"

namespace sky4::cuda::sm90 {
namespace {

static_assert(kCube == BlockSparseAttention::kCube);

constexpr const char* kName = "block_sparse_attention";
constexpr int64_t kMaxInt = std::numeric_limits<int>::max();
constexpr int64_t kMaxGridYZ = 65535;  // heads and batch items are grid axes

using Launch = cudaError_t (*)(const SparseParams&, cudaStream_t);

bool serves(const BlockSparseAttention& args) {
    const TensorRef& q = args.queries;
    if (compute_capability(kName, q.device_index) != 90) return false;
    if (q.shape[3] != 64 && q.shape[3] != 128) return false;
    if (!(args.scale > 0.0f)) return false;  // the running maximum is that of the unscaled scores
    if (q.shape[0] > kMaxGridYZ || q.shape[2] > kMaxGridYZ) return false;
    if (q.shape[1] > kMaxInt || args.keys.shape[1] > kMaxInt) return false;
    if (args.text_keys && !(suits_copies(*args.text_keys) && suits_copies(*args.text_values))) return false;
    return suits_copies(q) && suits_copies(args.keys) && suits_copies(args.values) && suits_copies(args.out);
}

// Three cubes per block share what is loaded, and lose where their selections differ or where blocks are too few. Not
// yet measured on a device: the simpler kernel is the rule until it is.
bool three_cubes_per_block() {
    const char* wanted = std::getenv("SKY4_SM90_SPARSE");
    if (wanted == nullptr || std::strcmp(wanted, "single") == 0) return false;
    if (std::strcmp(wanted, "triple") == 0) return true;
    throw WrongValue(std::string(kName) + ": SKY4_SM90_SPARSE is \"" + wanted + "\", expected single or triple");
}

template <DType kType, int kHeadDim>
Launch choose() {
    return three_cubes_per_block() ? launch_sparse_triple<kType, kHeadDim> : launch_sparse_single<kType, kHeadDim>;
}

template <DType kType>
Launch choose(int64_t head_dim) {
    return head_dim == 64 ? choose<kType, 64>() : choose<kType, 128>();
}

SparseParams parameters(const BlockSparseAttention& args) {
    SparseParams p{};
    p.queries = tensor_map(args.queries, kCube, kName);
    if (args.keys.shape[1] > 0) {
        p.keys = tensor_map(args.keys, kCube, kName);
        p.values = tensor_map(args.values, kCube, kName);
    }
    if (args.text_keys && args.text_keys->shape[1] > 0) {
        p.text_keys = tensor_map(*args.text_keys, kCube, kName);
        p.text_values = tensor_map(*args.text_values, kCube, kName);
        p.text_tokens = static_cast<int>(args.text_keys->shape[1]);
    }
    p.query_starts = args.query_starts.as<const int32_t>();
    p.key_starts = args.key_starts.as<const int32_t>();
    p.selected = args.selected.as<const int32_t>();
    p.text_lengths = args.text_lengths ? args.text_lengths->as<const int32_t>() : nullptr;
    p.out = args.out.data;
    p.out_batch = args.out.stride[0];
    p.out_row = args.out.stride[1];
    p.out_head = args.out.stride[2];
    p.lse = args.lse ? args.lse->as<float>() : nullptr;
    p.query_cubes = static_cast<int>(args.query_starts.shape[0]) - 1;
    p.key_cubes = static_cast<int>(args.key_starts.shape[0]) - 1;
    p.query_tokens = static_cast<int>(args.queries.shape[1]);
    p.heads = static_cast<int>(args.queries.shape[2]);
    p.batches = static_cast<int>(args.queries.shape[0]);
    p.scale = args.scale;
    return p;
}

}  // namespace

bool block_sparse_attention(const BlockSparseAttention& args) {
    if (!serves(args)) return false;
    if (args.out.elements() == 0) return true;
    const DeviceGuard here(kName, args.out.device_index);
    const Launch launch = args.out.dtype == DType::bfloat16 ? choose<DType::bfloat16>(args.out.shape[3])
                                                            : choose<DType::float16>(args.out.shape[3]);
    check(launch(parameters(args), static_cast<cudaStream_t>(args.stream)), kName);
    return true;
}

}  // namespace sky4::cuda::sm90
