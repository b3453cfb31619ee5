// Walks over the key cubes that bit rows select, in ascending order, with the text keys as a tail; host and device.
#pragma once

#include <cstdint>

#include "schedule.h"

namespace sky4::cuda::sm90 {

constexpr int kCube = 64;  // BlockSparseAttention::kCube

// A tile of keys: rows row .. row + size - 1 of the cube-ordered or of the text tensor. No size: the walk is over.
struct KeyBlock {
    int row = 0, size = 0;
    bool text = false;
    uint32_t owners = 0;  // bit i: row i of the walk selects it
};

constexpr int kCubesPerBlock = 3;               // of the triple kernel
constexpr int kTripleSlots = 5;                 // what fits beside three query tiles
constexpr int kTripleReach = kTripleSlots - 1;  // slots that can fill while one is held

// What the triple kernel's producer leaves beside a slot; the default says that the walk is over.
struct BlockNote {
    uint32_t bits = 0;

    SKY4_HOST_DEVICE constexpr BlockNote() {}
    SKY4_HOST_DEVICE constexpr explicit BlockNote(const KeyBlock& block)
        : bits(static_cast<uint32_t>(block.size) << 3 | block.owners) {}
    SKY4_HOST_DEVICE constexpr bool is_end() const { return bits == 0; }
    SKY4_HOST_DEVICE constexpr bool owned_by(int group) const { return (bits >> group & 1u) != 0; }
    SKY4_HOST_DEVICE constexpr int size() const { return static_cast<int>(bits >> 3); }
};

SKY4_HOST_DEVICE int lowest_bit(uint32_t bits) {
#ifdef __CUDA_ARCH__
    return __ffs(static_cast<int>(bits)) - 1;
#else
    return __builtin_ctz(bits);
#endif
}

// The union of kRows bit rows. `rows_present` of them exist; text belongs to each of those.
template <int kRows>
struct SelectionWalk {
    const uint32_t* words;  // [kRows, word_count], bit k % 32 of word k / 32 selects cube k
    const int32_t* starts;  // [cubes + 1]
    int cubes, word_count, rows_present, text_length;
    int word = -1, text_row = 0;  // where the walk stands
    uint32_t bits[kRows] = {}, any = 0;

    SKY4_HOST_DEVICE SelectionWalk(const int32_t* selected, const int32_t* cube_starts, int cube_count, int present,
                                   int text)
        : words(reinterpret_cast<const uint32_t*>(selected)),
          starts(cube_starts),
          cubes(cube_count),
          word_count((cube_count + 31) / 32),
          rows_present(present),
          text_length(text) {}

    SKY4_HOST_DEVICE KeyBlock next() {
        KeyBlock block;
        while (block.size == 0) {
            while (any == 0 && word + 1 < word_count) read_word();
            if (any == 0) return next_text();
            const int bit = lowest_bit(any);
            const int cube = 32 * word + bit;
            any &= any - 1;
            block.row = starts[cube];
            block.size = starts[cube + 1] - block.row;  // an empty cube is passed over
            block.owners = 0;
            SKY4_UNROLL
            for (int i = 0; i < kRows; ++i) block.owners |= (bits[i] >> bit & 1u) << i;
        }
        return block;
    }

private:
    SKY4_HOST_DEVICE void read_word() {
        ++word;
        const int left = cubes - 32 * word;  // bits past the last cube mean nothing
        const uint32_t valid = left >= 32 ? 0xffffffffu : (1u << left) - 1u;
        SKY4_UNROLL
        for (int i = 0; i < kRows; ++i) {
            bits[i] = i < rows_present ? words[static_cast<int64_t>(i) * word_count + word] & valid : 0u;
            any |= bits[i];
        }
    }

    SKY4_HOST_DEVICE KeyBlock next_text() {
        KeyBlock block;
        const int left = text_length - text_row;
        if (left <= 0) return block;
        block.row = text_row;
        block.size = left < kCube ? left : kCube;
        block.text = true;
        block.owners = (1u << rows_present) - 1u;
        text_row += kCube;
        return block;
    }
};

}  // namespace sky4::cuda::sm90
