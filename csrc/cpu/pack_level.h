// Lays rows of tokens out as panels (product_level.h).
//
//   transposed  panel p, word k, column c: word k of token p * kPanel + c    columns are tokens, summed over channels
//   straight    panel p, word t, column c: channel p * kPanel + c of token t (Pair: of tokens 2t and 2t + 1)
//                                                                            columns are channels, summed over tokens
// Panels lie d words (transposed) or a block's words (straight) apart, each word kPanel columns wide.
#pragma once

#include "attention_parts.h"
#include "product_level.h"

namespace sky4::cpu::SKY4_LEVEL {
namespace {

template <typename T>
using Word = typename WordOf<T>::type;

template <typename W>
constexpr int kPerWord = 1;  // tokens, or channels, in a word
template <>
constexpr int kPerWord<Pair> = 2;

// Words i .. i + kLanes - 1 of a row.
SKY4_INLINE vf row_words(float, const float* row, int i) { return load(row + i); }
SKY4_INLINE vf row_words(float, const bf16* row, int i) { return load(row + i); }
SKY4_INLINE vf row_words(Pair, const bf16* row, int i) { return load_as<vf>(row + 2 * i); }

// One of log2(kLanes) rounds: rows i and i + kHalf of every 2 * kHalf exchange their off-diagonal squares.
#if SKY4_LANES == 4
#define SKY4_LANE_LIST(f) f(0), f(1), f(2), f(3)
#elif SKY4_LANES == 8
#define SKY4_LANE_LIST(f) f(0), f(1), f(2), f(3), f(4), f(5), f(6), f(7)
#else
#define SKY4_LANE_LIST(f) \
    f(0), f(1), f(2), f(3), f(4), f(5), f(6), f(7), f(8), f(9), f(10), f(11), f(12), f(13), f(14), f(15)
#endif

template <int kHalf>
SKY4_INLINE void exchange(vf (&rows)[kLanes]) {
#define SKY4_UPPER(i) (((i) & kHalf) ? kLanes + (i) - kHalf : (i))
#define SKY4_LOWER(i) (((i) & kHalf) ? kLanes + (i) : (i) + kHalf)
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) {
        if (i & kHalf) continue;
        const vf a = rows[i], b = rows[i + kHalf];
        rows[i] = __builtin_shufflevector(a, b, SKY4_LANE_LIST(SKY4_UPPER));
        rows[i + kHalf] = __builtin_shufflevector(a, b, SKY4_LANE_LIST(SKY4_LOWER));
    }
}

SKY4_INLINE void transpose(vf (&rows)[kLanes]) {
    exchange<1>(rows);
    exchange<2>(rows);
#if SKY4_LANES > 4
    exchange<4>(rows);
#endif
#if SKY4_LANES > 8
    exchange<8>(rows);
#endif
}

// Words i .. i + kLanes - 1 of rows first .. first + kLanes - 1, of which those from `count` on are zeros.
template <typename W, typename T>
SKY4_INLINE void load_square(vf (&square)[kLanes], const void* const* rows, int first, int count, int i) {
#pragma GCC unroll 16
    for (int r = 0; r < kLanes; ++r)
        square[r] = first + r < count ? row_words(W{}, static_cast<const T*>(rows[first + r]), i) : splat(0.0f);
}

// `words` words of each row (a multiple of kLanes); tokens beyond `count`, up to a whole panel, become zeros.
template <typename W, typename T>
void pack_transposed(const void* const* rows, int count, int words, W* to) {
    for (int first = 0; first < whole_panels(count); first += kLanes) {
        W* panel = to + static_cast<int64_t>(first / kPanel) * words * kPanel + first % kPanel;
        for (int i = 0; i < words; i += kLanes) {
            vf square[kLanes];
            load_square<W, T>(square, rows, first, count, i);
            transpose(square);
#pragma GCC unroll 16
            for (int r = 0; r < kLanes; ++r) store_as(panel + (i + r) * kPanel, square[r]);
        }
    }
}

SKY4_INLINE void put_straight(float* to, const float* row, const float*) { store(to, load(row)); }
SKY4_INLINE void put_straight(float* to, const bf16* row, const bf16*) { store(to, load(row)); }
SKY4_INLINE void put_straight(Pair* to, const bf16* row, const bf16* next) {
    vu words = __builtin_convertvector(load_as<vh>(row), vu);
    if (next != nullptr) words |= __builtin_convertvector(load_as<vh>(next), vu) << 16;
    store_as(to, words);
}

// One panel every `panel_words` words; a Pair without a second token gets zero for it.
template <typename W, typename T>
void pack_straight(const void* const* rows, int count, int channels, int panel_words, W* to) {
    constexpr int kStep = kPerWord<W>;
    for (int t = 0; t < count; t += kStep) {
        const T* row = static_cast<const T*>(rows[t]);
        const T* next = t + 1 < count ? static_cast<const T*>(rows[t + 1]) : nullptr;
        for (int c = 0; c < channels; c += kLanes)
            put_straight(to + static_cast<int64_t>(c / kPanel) * panel_words * kPanel + t / kStep * kPanel + c % kPanel,
                         row + c, next == nullptr ? nullptr : next + c);
    }
}

template <typename T>
void pack_block(const PackBlock& block) {
    constexpr int kPair = kPerWord<Word<T>>;
    pack_transposed<Word<T>, T>(block.keys, block.count, block.channels / kPair,
                                static_cast<Word<T>*>(block.packed_keys));
    pack_straight<Word<T>, T>(block.values, block.count, block.channels, kBlock / kPair,
                              static_cast<Word<T>*>(block.packed_values));
}

}  // namespace
}  // namespace sky4::cpu::SKY4_LEVEL
