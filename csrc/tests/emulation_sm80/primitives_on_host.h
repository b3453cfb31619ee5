// Stands in for csrc/cuda/sm80/primitives.h on the host: each PTX instruction as its manual tells it, for all lanes.
#pragma once

#include "cuda_runtime.h"

namespace sky4::cuda::sm80 {

struct Bf16 {};
struct Fp16 {};

using SharedAddress = uint32_t;

inline SharedAddress dynamic_shared() { return 0; }
inline unsigned block_index() { return blockIdx.x; }

inline void copy_async(SharedAddress to, const void* from, int bytes, int size) {
    using namespace emulated;
    if (to % size != 0 || reinterpret_cast<uintptr_t>(from) % size != 0) fail("cp.async from or to unaligned memory");
    check_range(to, size);
    for (uint32_t i = to / 4; i < (to + size) / 4; ++i) {
        will_write(block().granules[i]);
        block().granules[i].in_flight = me();
    }
    std::memset(block().shared.data() + to, 0xff, size);
    block().pending[me()].push_back({to, from, bytes, size});
}

inline void copy_async_16(SharedAddress to, const void* from, int bytes) { copy_async(to, from, bytes, 16); }
inline void copy_async_8(SharedAddress to, const void* from, int bytes) { copy_async(to, from, bytes, 8); }

inline void copy_async_wait() {
    using namespace emulated;
    for (const PendingCopy& copy : block().pending[me()]) {
        unsigned char* to = block().shared.data() + copy.to;
        std::memset(to, 0, copy.size);
        std::memcpy(to, copy.from, copy.bytes);
        for (uint32_t i = copy.to / 4; i < (copy.to + copy.size) / 4; ++i) {
            block().granules[i].in_flight = -1;
            has_written(block().granules[i]);
        }
    }
    block().pending[me()].clear();
}

inline uint16_t shared_element(SharedAddress at) {
    uint16_t x;
    std::memcpy(&x, emulated::block().shared.data() + at, 2);
    return x;
}

// The address that lane `lane` gave.
inline int64_t ldmatrix_rows(emulated::Op op, SharedAddress row) {
    using namespace emulated;
    if (row % 16 != 0) fail("ldmatrix from an unaligned row");
    note_read(row, 16);
    return exchange(op, row, [](int64_t step) {
        for (int lane = 0; lane < 32; lane += 8) count_conflicts(step, lane, 8, 16);
    });
}

inline void ldmatrix(uint32_t (&r)[4], SharedAddress row) {
    const int64_t step = ldmatrix_rows(emulated::Op::ldmatrix, row);
    const int lane = emulated::me() % 32;
    for (int m = 0; m < 4; ++m) {
        const SharedAddress at = emulated::left_by<SharedAddress>(step, 8 * m + lane / 4) + 4 * (lane % 4);
        r[m] = shared_element(at) | static_cast<uint32_t>(shared_element(at + 2)) << 16;
    }
}

inline void ldmatrix_transposed(uint32_t (&r)[4], SharedAddress row) {
    const int64_t step = ldmatrix_rows(emulated::Op::ldmatrix_transposed, row);
    const int lane = emulated::me() % 32;
    for (int m = 0; m < 4; ++m) {
        const int from = 8 * m + 2 * (lane % 4), column = 2 * (lane / 4);
        r[m] = shared_element(emulated::left_by<SharedAddress>(step, from) + column) |
               static_cast<uint32_t>(shared_element(emulated::left_by<SharedAddress>(step, from + 1) + column)) << 16;
    }
}

template <typename T>
float element_to_float(uint16_t bits);

template <>
inline float element_to_float<Bf16>(uint16_t bits) {
    const uint32_t wide = static_cast<uint32_t>(bits) << 16;
    float x;
    std::memcpy(&x, &wide, 4);
    return x;
}

template <>
inline float element_to_float<Fp16>(uint16_t bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    float x = exponent == 31 ? (fraction ? NAN : INFINITY)
              : exponent     ? std::ldexp(static_cast<float>(1024 + fraction), exponent - 25)
                             : std::ldexp(static_cast<float>(fraction), -24);
    return bits & 0x8000 ? -x : x;
}

template <typename T>
uint16_t float_to_element(float x);

template <>
inline uint16_t float_to_element<Bf16>(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    if (std::isnan(x)) return 0x7fff;
    return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

template <>
inline uint16_t float_to_element<Fp16>(float x) {
    const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
    const float size = std::fabs(x);
    if (std::isnan(x)) return 0x7fff;
    if (size >= 65520.0f) return sign | 0x7c00;
    if (size < std::ldexp(1.0f, -14)) return sign | static_cast<uint16_t>(std::nearbyint(std::ldexp(size, 24)));
    int exponent;
    const float fraction = std::frexp(size, &exponent);  // [0.5, 1)
    return sign |
           static_cast<uint16_t>(((exponent + 13) << 10) + static_cast<int>(std::nearbyint(std::ldexp(fraction, 11))));
}

template <typename T>
uint32_t pack(float low, float high) {
    return float_to_element<T>(low) | static_cast<uint32_t>(float_to_element<T>(high)) << 16;
}

template <typename T>
float2 unpack(uint32_t bits) {
    return {element_to_float<T>(bits & 0xffff), element_to_float<T>(bits >> 16)};
}

struct MmaOperands {
    uint32_t a[4], b[2];
    float c[4];
};

// The fragment layouts are written out again here, from the PTX manual, not taken from layout.h: that is the point.
template <typename T>
void mma_of_warp(int64_t step) {
    float a[16][16], b[16][8];
    for (int lane = 0; lane < 32; ++lane) {
        const MmaOperands& own = emulated::left_by<MmaOperands>(step, lane);
        const int group = lane >> 2, in_group = lane & 3;
        for (int i = 0; i < 8; ++i) {  // row = groupID for a0 a1 a4 a5, else + 8; col = 2 threadID_in_group + (i & 1)
            const int row = (i < 2 || (i >= 4 && i < 6)) ? group : group + 8;
            const int column = in_group * 2 + (i & 1) + (i < 4 ? 0 : 8);
            a[row][column] = element_to_float<T>(own.a[i / 2] >> (16 * (i & 1)) & 0xffff);
        }
        for (int i = 0; i < 4; ++i)  // row = 2 threadID_in_group + (i & 1), + 8 for b2 b3; col = groupID
            b[in_group * 2 + (i & 1) + (i < 2 ? 0 : 8)][group] =
                element_to_float<T>(own.b[i / 2] >> (16 * (i & 1)) & 0xffff);
    }
    for (int lane = 0; lane < 32; ++lane) {
        MmaOperands& own = emulated::left_by<MmaOperands>(step, lane);
        for (int i = 0; i < 4; ++i) {  // row = groupID for c0 c1, + 8 for c2 c3; col = 2 threadID_in_group + (i & 1)
            const int row = (lane >> 2) + (i < 2 ? 0 : 8), column = (lane & 3) * 2 + (i & 1);
            double sum = own.c[i];
            for (int k = 0; k < 16; ++k) sum += static_cast<double>(a[row][k]) * b[k][column];
            own.c[i] = static_cast<float>(sum);
        }
    }
}

template <typename T>
void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    const int64_t step = emulated::exchange(
        emulated::Op::mma, MmaOperands{{a[0], a[1], a[2], a[3]}, {b0, b1}, {c[0], c[1], c[2], c[3]}}, mma_of_warp<T>);
    std::memcpy(c, emulated::left_by<MmaOperands>(step, emulated::me() % 32).c, sizeof c);
}

inline float exp2_fast(float x) { return std::exp2(x); }

inline void store_shared(SharedAddress to, uint32_t x) {
    using namespace emulated;
    note_write(to, 4);
    std::memcpy(block().shared.data() + to, &x, 4);
    exchange(Op::store, to, [](int64_t step) { count_conflicts(step, 0, 32, 4); });
}

inline uint4 load_shared_16(SharedAddress from) {
    emulated::note_read(from, 16);
    uint4 x;
    std::memcpy(&x, emulated::block().shared.data() + from, 16);
    return x;
}

inline float4 load_shared_float4(SharedAddress from) {
    emulated::note_read(from, 16);
    float4 x;
    std::memcpy(&x, emulated::block().shared.data() + from, 16);
    return x;
}

}  // namespace sky4::cuda::sm80
