#include "attention.h"

#include <algorithm>

namespace sky4::cpu {
namespace {

void cut(Blocks& blocks, int64_t end) {
    for (int64_t next = blocks.starts.back(); next < end;)
        blocks.starts.push_back(next = std::min<int64_t>(next + kBlock, end));
}

}  // namespace

TokenRows::TokenRows(const AttentionSegments& segments, int64_t b, int64_t h, const int64_t* counts) {
    int64_t end = 0;
    for (int i = 0; i < segments.count; ++i) {
        const TensorRef& x = segments.part[i];
        const int64_t size = x.dtype == DType::bfloat16 ? 2 : 4, count = counts ? counts[i] : x.shape[1];
        if (count == 0) continue;
        char* base = x.as<char>() + (b * x.stride[0] + h * x.stride[2]) * size;
        const int64_t stride = x.stride[1] * size, first = end;
        end += count;
        runs_[count_++] = {base - first * stride, stride, end};
    }
}

void TokenRows::at(int64_t first, int count, void** rows) const {
    const Run* run = runs_.data();
    for (int64_t token = first; token < first + count; ++token) {
        while (token >= run->end) ++run;
        *rows++ = run->base + token * run->stride;
    }
}

Cutting::Cutting(const JointAttention& args, const Cubes* cubes) {
    const int64_t samples = args.out.shape[0];
    keys_.resize(static_cast<size_t>(samples));
    counts_.resize(static_cast<size_t>(samples));
    queries_.starts.assign(1, 0);
    if (cubes)
        queries_.starts.assign(cubes->query_starts, cubes->query_starts + cubes->query_count + 1);
    else
        cut(queries_, args.out.shape[1]);
    for (int64_t b = 0; b < samples; ++b) {
        int64_t total = 0;
        for (int i = 0; i < args.keys.count; ++i) {
            const int64_t length = args.keys.part[i].shape[1];
            counts_[b][i] = length;
            if (args.lengths[i])
                counts_[b][i] = std::clamp<int64_t>(
                    args.lengths[i]->as<const int32_t>()[b * args.lengths[i]->stride[0]], 0, length);
            total += counts_[b][i];
        }
        Blocks& keys = keys_[b];
        keys.starts.assign(1, 0);
        if (cubes) keys.starts.assign(cubes->key_starts, cubes->key_starts + cubes->key_count + 1);
        cut(keys, total);
        most_key_blocks_ = std::max(most_key_blocks_, keys.count());
    }
}

}  // namespace sky4::cpu
