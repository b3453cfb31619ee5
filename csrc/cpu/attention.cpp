// The forward pass of dense and block-sparse attention: lay out keys and values, attend tile by tile.
//
// A head here is one (sample, head) pair: B * H of them, taken in groups whose packed keys fit a budget.
#include "attention.h"

#include <cmath>
#include <limits>

#include "parallel.h"
#include "workspace.h"

namespace sky4::cpu {
namespace {

// Packed keys and values held at a time: about a shared cache, and no burden beside the tensors themselves.
constexpr int64_t kPackBytes = 16 << 20;
// A tile of queries meets all its keys in one piece, unless there would be fewer pieces of work than this: then the
// keys are split. Not a matter of the machine's processors, so that a result does not depend on them.
constexpr int64_t kEnoughItems = 32;
// A split's blocks: fewer than these and starting, storing and combining it costs as much as it gains.
constexpr int64_t kLeastSplit = 8;
// Work below this many multiplications goes to one thread: a second one takes some microseconds to come.
constexpr int64_t kGrain = 1 << 20;

int64_t element_size(const TensorRef& x) { return x.dtype == DType::bfloat16 ? 2 : 4; }

char* row_of(const TensorRef& x, int64_t b, int64_t token, int64_t h) {
    return x.as<char>() + (b * x.stride[0] + token * x.stride[1] + h * x.stride[2]) * element_size(x);
}

class Forward {
public:
    Forward(const JointAttention& args, const Cubes* cubes)
        : args_(args),
          cubes_(cubes),
          table_(kernels()),
          cutting_(args, cubes),
          type_(args.out.dtype == DType::bfloat16 ? 1 : 0),
          heads_(args.out.shape[2]),
          all_heads_(args.out.shape[0] * heads_),
          tokens_(args.out.shape[1]),
          channels_(static_cast<int>(args.out.shape[3])),
          threads_(thread_limit()) {}

    void run() {
        const int64_t tiles = cutting_.queries().count(), blocks = cutting_.most_key_blocks();
        if (all_heads_ == 0 || tiles == 0) return;
        block_bytes_ = kBlock * channels_ * (type_ == 1 && table_.bf16_dot ? 2 : 4);
        const int64_t head_bytes = std::max<int64_t>(2 * blocks * block_bytes_, 1);
        const int64_t group = std::clamp<int64_t>(kPackBytes / head_bytes, 1, all_heads_);
        const int64_t splits =
            std::max<int64_t>(1, std::min((kEnoughItems + group * tiles - 1) / (group * tiles), blocks / kLeastSplit));

        const int64_t partial_rows = splits > 1 ? group * splits * tokens_ : 0;
        const int64_t chosen_blocks = cubes_ ? blocks : 0;
        Workspace memory;
        memory.reserve<char>(group * head_bytes);
        memory.reserve<float>(threads_ * kAttendScratch);
        memory.reserve<float>(threads_ * kBlock);
        memory.reserve<float>(partial_rows * channels_);
        memory.reserve<float>(partial_rows);
        memory.reserve<KeyBlock>(group * blocks);
        memory.reserve<KeyBlock>(threads_ * chosen_blocks);
        memory.open();
        char* const packs = memory.take<char>(group * head_bytes);
        float* const scratch = memory.take<float>(threads_ * kAttendScratch);
        float* const ignored_lse = memory.take<float>(threads_ * kBlock);
        float* const partial = memory.take<float>(partial_rows * channels_);
        float* const partial_lse = memory.take<float>(partial_rows);
        KeyBlock* const lists = memory.take<KeyBlock>(group * blocks);
        KeyBlock* const chosen = memory.take<KeyBlock>(threads_ * chosen_blocks);
        for (int64_t first = 0; first < all_heads_; first += group) {
            const int64_t count = std::min(group, all_heads_ - first);
            pack(first, count, packs, lists);
            const int64_t work = 2 * kBlock * kBlock * channels_ * std::max<int64_t>(blocks / splits, 1);
            parallel_for(
                count * tiles * splits, kGrain / work, threads_, [&](int64_t share, int64_t item, int64_t end) {
                    for (; item < end; ++item) {
                        const int64_t split = item % splits, tile = item / splits % tiles, slot = item / splits / tiles;
                        const Part part{first + slot, tile, split, splits, slot * splits * tokens_ + split * tokens_};
                        attend(part, lists + slot * blocks, chosen + share * chosen_blocks,
                               scratch + share * kAttendScratch, ignored_lse + share * kBlock, partial, partial_lse);
                    }
                });
            if (splits > 1) combine(first, count, splits, partial, partial_lse);
        }
    }

private:
    struct Part {
        int64_t head, tile, split, splits;
        int64_t partial_row;  // of token 0 among the partial results
    };

    void pack(int64_t first, int64_t count, char* packs, KeyBlock* lists) const {
        const int64_t blocks = cutting_.most_key_blocks();
        const int64_t grain = kGrain / (8 * kBlock * channels_);  // packing moves an element in about 8 multiplications
        parallel_for(count * blocks, grain, threads_, [&](int64_t, int64_t item, int64_t end) {
            for (; item < end; ++item) {
                const int64_t head = first + item / blocks, i = item % blocks, b = head / heads_, h = head % heads_;
                const Blocks& keys = cutting_.keys(b);
                if (i >= keys.count()) continue;
                const void *key_rows[kBlock], *value_rows[kBlock];
                const int size = keys.size(i);
                TokenRows(args_.keys, b, h, cutting_.key_counts(b)).at(keys.starts[i], size, key_rows);
                TokenRows(args_.values, b, h, cutting_.key_counts(b)).at(keys.starts[i], size, value_rows);
                char* const to = packs + item * 2 * block_bytes_;
                table_.pack_block[type_]({key_rows, value_rows, size, channels_, to, to + block_bytes_});
                lists[item] = {to, to + block_bytes_, size};
            }
        });
    }

    void attend(const Part& part, const KeyBlock* list, KeyBlock* chosen, float* scratch, float* ignored_lse,
                float* partial, float* partial_lse) const {
        const int64_t b = part.head / heads_, h = part.head % heads_;
        const int64_t token = cutting_.queries().starts[part.tile];
        const int size = cutting_.queries().size(part.tile);
        if (size == 0) return;
        const int64_t blocks = cutting_.keys(b).count();
        const int64_t begin = blocks * part.split / part.splits, end = blocks * (part.split + 1) / part.splits;
        AttendTile tile{};
        tile.blocks = cubes_ ? chosen : list + begin;
        tile.block_count = cubes_ ? choose(part, list, begin, end, chosen) : end - begin;
        const void* query_rows[kBlock];
        TokenRows(args_.queries, b, h, nullptr).at(token, size, query_rows);
        void* out_rows[kBlock];
        tile.partial = part.splits > 1;
        for (int r = 0; r < size; ++r)
            out_rows[r] = tile.partial ? reinterpret_cast<char*>(partial + (part.partial_row + token + r) * channels_)
                                       : row_of(args_.out, b, token + r, h);
        tile.queries = query_rows;
        tile.count = size;
        tile.channels = channels_;
        tile.scale = args_.scale;
        tile.scratch = scratch;
        tile.out = out_rows;
        tile.lse = tile.partial ? partial_lse + part.partial_row + token
                   : args_.lse  ? args_.lse->as<float>() + part.head * tokens_ + token
                                : ignored_lse;
        table_.attend[type_](tile);
    }

    int64_t choose(const Part& part, const KeyBlock* list, int64_t begin, int64_t end, KeyBlock* chosen) const {
        int64_t count = 0;
        for (int64_t k = begin; k < end; ++k)
            if (list[k].count > 0 && is_selected(cubes_, part.head, part.tile, k)) chosen[count++] = list[k];
        return count;
    }

    // out = sum_s exp(lse_s - lse) out_s with lse = log sum_s exp(lse_s).
    void combine(int64_t first, int64_t count, int64_t splits, const float* partial, const float* partial_lse) const {
        parallel_for(count * tokens_, kGrain / (8 * channels_ * splits), threads_,
                     [&](int64_t, int64_t i, int64_t end) {
                         for (; i < end; ++i) {
                             const int64_t slot = i / tokens_, token = i % tokens_, head = first + slot;
                             const auto row = [&](int64_t split) { return (slot * splits + split) * tokens_ + token; };
                             float top = -std::numeric_limits<float>::infinity();
                             for (int64_t s = 0; s < splits; ++s) top = std::max(partial_lse[row(s)], top);
                             const float anchor = std::isinf(top) ? 0.0f : top;
                             float sum[kMaxChannels] = {}, total = 0.0f;
                             for (int64_t s = 0; s < splits; ++s) {
                                 const float weight = std::exp(partial_lse[row(s)] - anchor);
                                 total += weight;
                                 const float* from = partial + row(s) * channels_;
                                 for (int c = 0; c < channels_; ++c) sum[c] += weight * from[c];
                             }
                             const float inverse = total == 0.0f ? 0.0f : 1.0f / total;
                             if (args_.lse) args_.lse->as<float>()[head * tokens_ + token] = anchor + std::log(total);
                             char* out = row_of(args_.out, head / heads_, token, head % heads_);
                             for (int c = 0; c < channels_; ++c) {
                                 if (type_ == 1)
                                     reinterpret_cast<bf16*>(out)[c] = from_float<bf16>(sum[c] * inverse);
                                 else
                                     reinterpret_cast<float*>(out)[c] = sum[c] * inverse;
                             }
                         }
                     });
    }

    const JointAttention& args_;
    const Cubes* cubes_;
    const KernelTable& table_;
    const Cutting cutting_;
    const int type_;  // the kernels' index
    const int64_t heads_, all_heads_, tokens_;
    const int channels_;
    const int64_t threads_;
    int64_t block_bytes_ = 0;
};

}  // namespace

void attend_segments(const JointAttention& args, const Cubes* cubes) { Forward(args, cubes).run(); }

}  // namespace sky4::cpu
