// What dense and block-sparse attention share: both are segments of tokens cut into blocks of at most 64.
#pragma once

#include <cstdint>
#include <vector>

#include "../joint_attention.h"
#include "attention_parts.h"
#include "isa.h"

namespace sky4::cpu {

// The cubes of block-sparse attention. Their tokens are the first query and the first key segment; keys of the other
// segments are attended by every query.
struct Cubes {
    const int32_t* query_starts;
    const int32_t* key_starts;
    int64_t query_count, key_count;
    const int32_t* selected;  // [B, H, query_count, words]
    int64_t words;
};

void attend_segments(const JointAttention& args, const Cubes* cubes);
void attend_segments_backward(const JointAttentionBackward& args, const Cubes* cubes);

// The rows of one head of one sample, its segments one after the other.
class TokenRows {
public:
    // `counts`: tokens of each segment that count; null = all.
    TokenRows(const AttentionSegments& segments, int64_t b, int64_t h, const int64_t* counts);

    // Pointers to `count` rows from `first` on.
    void at(int64_t first, int count, void** rows) const;
    template <typename T>
    void at(int64_t first, int count, const T** rows) const {
        at(first, count, const_cast<void**>(reinterpret_cast<const void**>(rows)));
    }

private:
    struct Run {
        char* base;
        int64_t stride, end;  // bytes; first token after the run
    };
    std::array<Run, AttentionSegments::kMax> runs_;
    int count_ = 0;
};

// The tokens of all blocks: block i is starts[i] .. starts[i + 1] - 1.
struct Blocks {
    std::vector<int64_t> starts;

    int64_t count() const { return static_cast<int64_t>(starts.size()) - 1; }
    int size(int64_t i) const { return static_cast<int>(starts[i + 1] - starts[i]); }
};

// How the queries of a call, and the keys of each of its samples, are cut into blocks.
class Cutting {
public:
    Cutting(const JointAttention& args, const Cubes* cubes);

    const Blocks& queries() const { return queries_; }
    const Blocks& keys(int64_t b) const { return keys_[b]; }
    const int64_t* key_counts(int64_t b) const { return counts_[b].data(); }
    int64_t most_key_blocks() const { return most_key_blocks_; }

private:
    Blocks queries_;
    std::vector<Blocks> keys_;                                          // [B]
    std::vector<std::array<int64_t, AttentionSegments::kMax>> counts_;  // [B]
    int64_t most_key_blocks_ = 0;
};

inline bool is_selected(const Cubes* cubes, int64_t head, int64_t query_block, int64_t key_block) {
    if (cubes == nullptr || key_block >= cubes->key_count) return true;
    const int32_t* row = cubes->selected + (head * cubes->query_count + query_block) * cubes->words;
    return (static_cast<uint32_t>(row[key_block / 32]) >> (key_block % 32)) & 1u;
}

}  // namespace sky4::cpu
