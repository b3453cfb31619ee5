#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>

#include "../../check.h"
#include "../device.h"
#include "attention.h"
#include "dense.h"
#include "tensor_map.h"

namespace sky4::cuda::sm90 {
namespace {

constexpr const char* kName = "joint_attention";
constexpr int64_t kMaxInt = std::numeric_limits<int>::max();

using Launch = cudaError_t (*)(const DenseParams&, int, cudaStream_t);
using Combine = cudaError_t (*)(const DenseParams&, cudaStream_t);

// A kernel, its tile of keys and what combines its splits.
struct Choice {
    int key_tile;
    Launch launch;
    Combine combine;
};

bool serves(const JointAttention& args) {
    const TensorRef& first = args.queries.part[0];
    if (compute_capability(kName, first.device_index) != 90) return false;
    if (first.shape[3] != 64 && first.shape[3] != 128) return false;
    if (!(args.scale > 0.0f)) return false;  // the running maximum is that of the unscaled scores
    for (int i = 0; i < args.queries.count; ++i)
        if (!suits_copies(args.queries.part[i])) return false;
    for (int i = 0; i < args.keys.count; ++i)
        if (!suits_copies(args.keys.part[i]) || !suits_copies(args.values.part[i])) return false;
    return suits_copies(args.out) && args.queries.total_length() <= kMaxInt && args.keys.total_length() <= kMaxInt;
}

int64_t padded_keys(const JointAttention& args, int tile) {
    int64_t rows = 0;
    for (int i = 0; i < args.keys.count; ++i) rows += (args.keys.part[i].shape[1] + tile - 1) / tile * tile;
    return rows;
}

// 176 keys are the widest tile that two of K and of V fit beside Q; 128 pad short segments less. Per key 128 are taken
// to be a twentieth slower (fewer products per softmax and per barrier).
int choose_key_tile(const JointAttention& args) {
    if (const char* wanted = std::getenv("SKY4_SM90_KEY_TILE")) {
        if (std::strcmp(wanted, "128") == 0) return 128;
        if (std::strcmp(wanted, "176") == 0) return 176;
        throw WrongValue(std::string(kName) + ": SKY4_SM90_KEY_TILE is \"" + wanted + "\", expected 128 or 176");
    }
    return padded_keys(args, 128) * 21 < padded_keys(args, 176) * 20 ? 128 : 176;
}

template <DType kType>
Choice choose(const JointAttention& args) {
    if (args.out.shape[3] == 64) return {192, launch_dense<kType, 64, 192>, launch_combine<kType, 64>};
    if (choose_key_tile(args) == 128) return {128, launch_dense<kType, 128, 128>, launch_combine<kType, 128>};
    return {176, launch_dense<kType, 128, 176>, launch_combine<kType, 128>};
}

DenseParams parameters(const JointAttention& args, int key_tile) {
    DenseParams p{};
    int64_t offset = 0;
    for (int i = 0; i < args.queries.count; ++i) {
        const TensorRef& q = args.queries.part[i];
        p.query_rows[i] = static_cast<int>(q.shape[1]);
        p.query_offset[i] = static_cast<int>(offset);
        p.grid.tiles[i] = static_cast<int>((q.shape[1] + kQueryTile - 1) / kQueryTile);
        if (q.shape[1] > 0) p.queries[i] = tensor_map(q, kQueryTile / 2, kName);
        offset += q.shape[1];
    }
    for (int i = 0; i < args.keys.count; ++i) {
        p.key_rows[i] = static_cast<int>(args.keys.part[i].shape[1]);
        p.lengths[i] = args.lengths[i] ? args.lengths[i]->as<const int32_t>() : nullptr;
        if (p.key_rows[i] == 0) continue;
        p.keys[i] = tensor_map(args.keys.part[i], key_tile, kName);
        p.values[i] = tensor_map(args.values.part[i], key_tile, kName);
    }
    p.grid.batches = static_cast<int>(args.out.shape[0]);
    p.grid.heads = static_cast<int>(args.out.shape[2]);
    p.grid.splits = 1;
    p.out = args.out.data;
    p.out_batch = args.out.stride[0];
    p.out_row = args.out.stride[1];
    p.out_head = args.out.stride[2];
    p.lse = args.lse ? args.lse->as<float>() : nullptr;
    p.total_rows = static_cast<int>(args.out.shape[1]);
    p.scale = args.scale;
    return p;
}

}  // namespace

bool joint_attention(const JointAttention& args) {
    if (!serves(args)) return false;
    if (args.out.elements() == 0) return true;
    const DeviceGuard here(kName, args.out.device_index);
    const Choice choice =
        args.out.dtype == DType::bfloat16 ? choose<DType::bfloat16>(args) : choose<DType::float16>(args);
    DenseParams p = parameters(args, choice.key_tile);
    int processors = 0;
    check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, args.out.device_index), kName);
    const int64_t unsplit = p.grid.items();
    p.grid.splits =
        choose_splits(unsplit, static_cast<int>(padded_keys(args, choice.key_tile) / choice.key_tile), processors);
    if (p.grid.items() > kMaxInt - processors) return false;  // a block's next item must be an int

    const auto stream = static_cast<cudaStream_t>(args.stream);
    const int blocks = static_cast<int>(std::min<int64_t>(p.grid.items(), processors));
    if (p.grid.splits == 1) {
        check(choice.launch(p, blocks, stream), kName);
        return true;
    }
    const size_t rows = static_cast<size_t>(p.grid.splits) * p.grid.batches * p.grid.heads * p.total_rows;
    void* partial = nullptr;
    check(cudaMallocAsync(&partial, rows * (args.out.shape[3] + 1) * sizeof(float), stream), kName);
    p.partial_out = static_cast<float*>(partial);
    p.partial_lse = p.partial_out + rows * args.out.shape[3];
    cudaError_t status = choice.launch(p, blocks, stream);
    if (status == cudaSuccess) status = choice.combine(p, stream);
    const cudaError_t freed = cudaFreeAsync(partial, stream);
    check(status, kName);
    check(freed, kName);
    return true;
}

}  // namespace sky4::cuda::sm90
