// The three views of a tile agree: where the copy engine puts element (row, channel) is where wgmma, through the
// descriptors that CuTe makes, looks for it. Host code only: nvcc compiles it, no GPU runs it.
// (CuTe prints that shared-memory addresses are not to be had on the host and takes 0, which is what is wanted here.)
//
// Positions by the PTX ISA, 128-byte swizzle: bits 4-6 of a shared-memory address are xored with bits 7-9.
//   copy engine:    panel p of 64 channels at p * rows * 128, row r at r * 128
//   K-major:        row r of a step at r / 8 * stride offset + r % 8 * 128, contracted index c at 2 c
//   MN-major:       index n at n / 64 * leading offset + 2 (n % 64), contracted index k at k / 8 * stride offset + k %
//   8 * 128
#include <cstdio>
#include <cstdlib>

#include "../cuda/sm90/matmul.h"

using namespace sky4::cuda::sm90;

namespace {

#define REQUIRE(condition)                                                               \
    do {                                                                                 \
        if (!(condition)) {                                                              \
            std::fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition); \
            std::exit(1);                                                                \
        }                                                                                \
    } while (0)

int swizzled(int address) { return address ^ (address >> 7 & 7) << 4; }

int copied_to(int rows, int row, int channel) {
    return swizzled(channel / 64 * rows * 128 + row * 128 + channel % 64 * 2);
}

// All fields are in units of 16 bytes.
struct Descriptor {
    int start, leading, stride, layout;

    explicit Descriptor(const cute::GmmaDescriptor& d)
        : start(d.bitfield.start_address_ * 16),
          leading(d.bitfield.leading_byte_offset_ * 16),
          stride(d.bitfield.stride_byte_offset_ * 16),
          layout(d.bitfield.layout_type_) {}

    int token_major(int row, int c) const { return swizzled(start + row / 8 * stride + row % 8 * 128 + 2 * c); }
    int channel_major(int n, int k) const {
        return swizzled(start + n / 64 * leading + n % 64 * 2 + k / 8 * stride + k % 8 * 128);
    }
};

constexpr int kSwizzle128 = 1;  // layout_type of 128-byte swizzle

template <class T, int kRows, int kChannels, int kSlots>
void test_layouts_follow_the_copy_engine() {
    // CuTe swizzles addresses; as layouts of elements the two are comparable.
    const auto tokens = cute::as_position_independent_swizzle_layout(TokenMajor<T, kRows, kChannels, kSlots>{});
    const auto channels = cute::as_position_independent_swizzle_layout(ChannelMajor<T, kRows, kChannels, kSlots>{});
    for (int slot = 0; slot < kSlots; ++slot)
        for (int r = 0; r < kRows; ++r)
            for (int c = 0; c < kChannels; ++c) {
                const int expected = slot * kRows * kChannels + copied_to(kRows, r, c) / 2;
                REQUIRE(tokens(r, c, slot) == expected);
                REQUIRE(channels(c, r, slot) == expected);
            }
}

// The operands of S = Q KT: 16 channels per step.
template <class T, int kRows, int kChannels, int kSlots, class Fragment>
void check_token_major(const Fragment& fragment) {
    REQUIRE(cute::size<2>(fragment) == kChannels / 16);
    for (int slot = 0; slot < kSlots; ++slot)
        for (int step = 0; step < kChannels / 16; ++step) {
            const Descriptor d(fragment(0, 0, step, slot));
            REQUIRE(d.layout == kSwizzle128);
            for (int r = 0; r < kRows; ++r)
                for (int c = 0; c < 16; ++c)
                    REQUIRE(d.token_major(r, c) == slot * kRows * kChannels * 2 + copied_to(kRows, r, 16 * step + c));
        }
}

template <class T, int kKeys, int kChannels, int kSlots>
void test_descriptors_follow_the_copy_engine() {
    using namespace cute;
    test_layouts_follow_the_copy_engine<T, 64, kChannels, 1>();
    test_layouts_follow_the_copy_engine<T, kKeys, kChannels, kSlots>();

    const typename ScoresMma<T, kKeys>::type scores_mma;
    const typename OutputMma<T, kChannels>::type output_mma;
    T* const base = nullptr;  // shared memory begins at 0: offsets come out
    check_token_major<T, 64, kChannels, 1>(
        scores_mma.get_slice(0).partition_fragment_A(make_tensor(make_smem_ptr(base), TokenMajor<T, 64, kChannels>{})));
    check_token_major<T, kKeys, kChannels, kSlots>(scores_mma.get_slice(0).partition_fragment_B(
        make_tensor(make_smem_ptr(base), TokenMajor<T, kKeys, kChannels, kSlots>{})));

    // The operand V of O += P V: 16 keys per step, all channels.
    const auto v = output_mma.get_slice(0).partition_fragment_B(
        make_tensor(make_smem_ptr(base), ChannelMajor<T, kKeys, kChannels, kSlots>{}));
    REQUIRE(size<2>(v) == kKeys / 16);
    for (int slot = 0; slot < kSlots; ++slot)
        for (int step = 0; step < kKeys / 16; ++step) {
            const Descriptor d(v(0, 0, step, slot));
            REQUIRE(d.layout == kSwizzle128);
            for (int n = 0; n < kChannels; ++n)
                for (int k = 0; k < 16; ++k)
                    REQUIRE(d.channel_major(n, k) == slot * kKeys * kChannels * 2 + copied_to(kKeys, 16 * step + k, n));
        }

    // The fragment of P is that of S, in the same order: thread t, element 4 n + 2 r + i <-> row, key (matmul.h).
    const auto scores_layout = typename ScoresMma<T, kKeys>::type{}.get_layoutC_TV();
    const auto p_layout = typename OutputMma<T, kChannels>::type{}.get_layoutA_TV();
    for (int t = 0; t < 128; ++t)
        for (int e = 0; e < kKeys / 2; ++e) {
            const int row = t / 32 * 16 + t % 32 / 4 + e / 2 % 2 * 8, key = e / 4 * 8 + t % 4 * 2 + e % 2;
            REQUIRE(scores_layout(t, e) == row + 64 * key);
            REQUIRE(p_layout(t, e % 8) + 64 * 16 * (e / 8) == row + 64 * key);
        }
}

}  // namespace

int main() {
    using cutlass::bfloat16_t;
    using cutlass::half_t;
    test_descriptors_follow_the_copy_engine<bfloat16_t, 176, 128, 2>();
    test_descriptors_follow_the_copy_engine<bfloat16_t, 128, 128, 2>();
    test_descriptors_follow_the_copy_engine<bfloat16_t, 192, 64, 2>();
    test_descriptors_follow_the_copy_engine<bfloat16_t, 64, 128, 5>();
    test_descriptors_follow_the_copy_engine<bfloat16_t, 64, 64, 5>();
    test_descriptors_follow_the_copy_engine<half_t, 176, 128, 2>();
    test_descriptors_follow_the_copy_engine<half_t, 64, 64, 5>();
    std::puts("sm90 tiles: every claim held");
    return 0;
}
