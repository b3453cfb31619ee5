// The backward pass of dense and block-sparse attention.
//
// The key blocks of a head are shared among a few chunks. A chunk goes through its key blocks and, for each, through
// the query blocks that attend to it: dK and dV of the block come out whole; dQ adds up within the chunk, and the
// chunks' dQ are added in their order. So all five products are formed once and the result does not depend on the
// threads.
#include <algorithm>
#include <limits>
#include <utility>

#include "attention.h"
#include "parallel.h"
#include "workspace.h"

namespace sky4::cpu {
namespace {

constexpr float kLog2E = 1.4426950408889634f;
constexpr float kInfinity = std::numeric_limits<float>::infinity();
// Heads are taken in groups that need about so much memory, and at least one by one.
constexpr int64_t kGroupBytes = 32 << 20;
// Chunks per head: each costs a dQ of its own, and too few leave threads idle where there are few heads.
constexpr int64_t kMostChunks = 8;
constexpr int64_t kEnoughItems = 24;
constexpr int64_t kGrain = 1 << 20;  // multiplications, as in attention.cpp

class Backward {
public:
    Backward(const JointAttentionBackward& args, const Cubes* cubes)
        : args_(args),
          forward_(args.forward),
          cubes_(cubes),
          table_(kernels()),
          cutting_(args.forward, cubes),
          type_(args.forward.out.dtype == DType::bfloat16 ? 1 : 0),
          samples_(args.forward.out.shape[0]),
          heads_(args.forward.out.shape[2]),
          tokens_(args.forward.out.shape[1]),
          channels_(static_cast<int>(args.forward.out.shape[3])),
          threads_(thread_limit()),
          query_blocks_(cutting_.queries().count()),
          key_blocks_(cutting_.most_key_blocks()),
          chunks_(std::clamp<int64_t>((kEnoughItems + samples_ * heads_ - 1) / std::max<int64_t>(samples_ * heads_, 1),
                                      1, std::clamp<int64_t>(key_blocks_, 1, kMostChunks))),
          query_floats_(2 * rows_size(channels_) + 2 * transposed_size(channels_) + 2 * kBlock),
          key_floats_(rows_size(channels_) + 2 * transposed_size(channels_)),
          grad_floats_(query_blocks_ * kBlock * channels_) {}

    void run() {
        const int64_t all_heads = samples_ * heads_;
        if (all_heads == 0) return;
        const int64_t head_floats = query_blocks_ * query_floats_ + key_blocks_ * key_floats_ + chunks_ * grad_floats_;
        const int64_t group = std::clamp<int64_t>(kGroupBytes / (4 * std::max<int64_t>(head_floats, 1)), 1, all_heads);
        const int64_t share_floats = kBackwardScratch + 2 * kBlock * kMaxChannels;
        Workspace memory;
        memory.reserve<float>(group * query_blocks_ * query_floats_);
        memory.reserve<float>(group * key_blocks_ * key_floats_);
        memory.reserve<float>(group * chunks_ * grad_floats_);
        memory.reserve<float>(threads_ * share_floats);
        memory.reserve<QueryBlock>(group * query_blocks_);
        memory.reserve<int64_t>(threads_ * query_blocks_);
        memory.open();
        query_memory_ = memory.take<float>(group * query_blocks_ * query_floats_);
        key_memory_ = memory.take<float>(group * key_blocks_ * key_floats_);
        partial_ = memory.take<float>(group * chunks_ * grad_floats_);
        float* const scratch = memory.take<float>(threads_ * share_floats);
        queries_ = memory.take<QueryBlock>(group * query_blocks_);
        int64_t* const chosen = memory.take<int64_t>(threads_ * query_blocks_);

        const int64_t block_grain = kGrain / (8 * kBlock * channels_);  // moving an element: about 8 multiplications
        const int64_t pair_work = 5 * kBlock * kBlock * channels_;
        for (first_ = 0; first_ < all_heads; first_ += group) {
            const int64_t count = std::min(group, all_heads - first_), blocks = query_blocks_ + key_blocks_;
            parallel_for(count * blocks, block_grain, threads_, [&](int64_t, int64_t item, int64_t end) {
                for (; item < end; ++item) {
                    const int64_t slot = item / blocks, i = item % blocks;
                    if (i < query_blocks_)
                        lay_out_queries(slot, i);
                    else
                        lay_out_keys(slot, i - query_blocks_);
                }
            });
            const int64_t chunk_work = pair_work * std::max<int64_t>(query_blocks_ * key_blocks_ / chunks_, 1);
            parallel_for(count * chunks_, kGrain / chunk_work, threads_, [&](int64_t share, int64_t item, int64_t end) {
                for (; item < end; ++item)
                    run_chunk(item / chunks_, item % chunks_, scratch + share * share_floats,
                              chosen + share * query_blocks_);
            });
            parallel_for(count * query_blocks_, block_grain, threads_, [&](int64_t, int64_t item, int64_t end) {
                for (; item < end; ++item) finish_queries(item / query_blocks_, item % query_blocks_);
            });
            for (int64_t slot = 0; slot < count; ++slot) clear_unattended_keys(slot);
        }
    }

private:
    int64_t sample(int64_t slot) const { return (first_ + slot) / heads_; }
    int64_t head(int64_t slot) const { return (first_ + slot) % heads_; }

    static AttentionSegments alone(const TensorRef& x) {
        AttentionSegments segments;
        segments.part[segments.count++] = x;
        return segments;
    }

    void lay_out_queries(int64_t slot, int64_t i) const {
        const int64_t b = sample(slot), h = head(slot), token = cutting_.queries().starts[i];
        const int size = cutting_.queries().size(i);
        float* next = query_memory_ + (slot * query_blocks_ + i) * query_floats_;
        const auto take = [&](int64_t count) { return std::exchange(next, next + count); };
        QueryBlock& block = queries_[slot * query_blocks_ + i];
        block.rows = take(rows_size(channels_));
        block.grad_rows = take(rows_size(channels_));
        block.transposed = take(transposed_size(channels_));
        block.grad_transposed = take(transposed_size(channels_));
        block.lse = take(kBlock);
        block.delta = take(kBlock);
        block.count = size;
        const void *query_rows[kBlock], *out_rows[kBlock], *grad_rows[kBlock];
        TokenRows(forward_.queries, b, h, nullptr).at(token, size, query_rows);
        TokenRows(alone(forward_.out), b, h, nullptr).at(token, size, out_rows);
        TokenRows(alone(args_.grad_out), b, h, nullptr).at(token, size, grad_rows);
        table_.lay_out[type_]({query_rows, size, channels_, block.rows, block.transposed});
        table_.lay_out[type_]({grad_rows, size, channels_, block.grad_rows, block.grad_transposed});
        std::fill_n(block.delta, kBlock, 0.0f);
        table_.row_products[type_]({out_rows, grad_rows, size, channels_, block.delta});
        const float* lse = forward_.lse->as<const float>() + (first_ + slot) * tokens_ + token;
        for (int r = 0; r < kBlock; ++r)
            block.lse[r] = r < size && lse[r] != -kInfinity ? lse[r] * kLog2E : kInfinity;  // +inf: probability 0
    }

    float* key_block(int64_t slot, int64_t i) const { return key_memory_ + (slot * key_blocks_ + i) * key_floats_; }

    void lay_out_keys(int64_t slot, int64_t i) const {
        const int64_t b = sample(slot), h = head(slot);
        const Blocks& keys = cutting_.keys(b);
        if (i >= keys.count()) return;
        const int size = keys.size(i);
        const void* rows[kBlock];
        float* const to = key_block(slot, i);
        TokenRows(forward_.keys, b, h, cutting_.key_counts(b)).at(keys.starts[i], size, rows);
        table_.lay_out[type_]({rows, size, channels_, to, to + rows_size(channels_)});
        TokenRows(forward_.values, b, h, cutting_.key_counts(b)).at(keys.starts[i], size, rows);
        table_.lay_out[type_]({rows, size, channels_, nullptr, to + rows_size(channels_) + transposed_size(channels_)});
    }

    void run_chunk(int64_t slot, int64_t chunk, float* scratch, int64_t* chosen) const {
        const int64_t b = sample(slot);
        const Blocks& keys = cutting_.keys(b);
        float* const grad_queries = partial_ + (slot * chunks_ + chunk) * grad_floats_;
        std::fill_n(grad_queries, grad_floats_, 0.0f);
        BackwardTile tile{};
        tile.channels = channels_;
        tile.queries = queries_ + slot * query_blocks_;
        tile.chosen = chosen;
        tile.scale = forward_.scale;
        tile.scratch = scratch;
        tile.grad_queries = grad_queries;
        tile.grad_keys = scratch + kBackwardScratch;
        tile.grad_values = tile.grad_keys + kBlock * kMaxChannels;
        const int64_t end = keys.count() * (chunk + 1) / chunks_;
        for (int64_t k = keys.count() * chunk / chunks_; k < end; ++k) {
            tile.count = keys.size(k);
            if (tile.count == 0) continue;
            tile.key_rows = key_block(slot, k);
            tile.key_transposed = tile.key_rows + rows_size(channels_);
            tile.value_transposed = tile.key_transposed + transposed_size(channels_);
            tile.chosen_count = 0;
            for (int64_t q = 0; q < query_blocks_; ++q)
                if (cutting_.queries().size(q) > 0 && is_selected(cubes_, first_ + slot, q, k))
                    chosen[tile.chosen_count++] = q;
            table_.attend_backward(tile);
            write(args_.grad_keys, slot, cutting_.key_counts(b), keys.starts[k], tile.count, tile.grad_keys);
            write(args_.grad_values, slot, cutting_.key_counts(b), keys.starts[k], tile.count, tile.grad_values);
        }
    }

    void finish_queries(int64_t slot, int64_t i) const {
        const int size = cutting_.queries().size(i);
        float* const sum = partial_ + slot * chunks_ * grad_floats_ + i * kBlock * channels_;
        for (int64_t chunk = 1; chunk < chunks_; ++chunk)
            for (int e = 0; e < size * channels_; ++e) sum[e] += sum[chunk * grad_floats_ + e];
        write(args_.grad_queries, slot, nullptr, cutting_.queries().starts[i], size, sum);
    }

    // Keys beyond their sample's length have no part in the result.
    void clear_unattended_keys(int64_t slot) const {
        const int64_t* counts = cutting_.key_counts(sample(slot));
        for (const AttentionSegments* grads : {&args_.grad_keys, &args_.grad_values})
            for (int i = 0; i < grads->count; ++i) {
                const TokenRows rows(alone(grads->part[i]), sample(slot), head(slot), nullptr);
                for (int64_t token = counts[i]; token < grads->part[i].shape[1]; ++token) {
                    void* row;
                    rows.at(token, 1, &row);
                    std::fill_n(static_cast<char*>(row), channels_ * (type_ == 1 ? 2 : 4), '\0');
                }
            }
    }

    void write(const AttentionSegments& segments, int64_t slot, const int64_t* counts, int64_t token, int count,
               const float* from) const {
        void* rows[kBlock];
        TokenRows(segments, sample(slot), head(slot), counts).at(token, count, rows);
        for (int r = 0; r < count; ++r, from += channels_) {
            if (type_ == 1)
                for (int c = 0; c < channels_; ++c) static_cast<bf16*>(rows[r])[c] = from_float<bf16>(from[c]);
            else
                std::copy_n(from, channels_, static_cast<float*>(rows[r]));
        }
    }

    const JointAttentionBackward& args_;
    const JointAttention& forward_;
    const Cubes* cubes_;
    const KernelTable& table_;
    const Cutting cutting_;
    const int type_;  // the kernels' index
    const int64_t samples_, heads_, tokens_;
    const int channels_;
    const int64_t threads_, query_blocks_, key_blocks_, chunks_;
    const int64_t query_floats_, key_floats_, grad_floats_;  // of a block, a block, a chunk
    int64_t first_ = 0;                                      // head of slot 0 of the group at hand
    float *query_memory_ = nullptr, *key_memory_ = nullptr, *partial_ = nullptr;
    QueryBlock* queries_ = nullptr;
};

}  // namespace

void attend_segments_backward(const JointAttentionBackward& args, const Cubes* cubes) { Backward(args, cubes).run(); }

}  // namespace sky4::cpu
