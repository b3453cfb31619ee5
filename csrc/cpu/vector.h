// The vectors of one instruction-set level: the compiler's own vector types, of a width given by the level. Only for
// level.cpp and what it includes.
//
//   vf   kLanes float32         vi   kLanes int32 (also two bfloat16 each, the lower one first)
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#include "../tensor.h"

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace sky4::cpu::SKY4_LEVEL {
namespace {

constexpr int kLanes = SKY4_LANES;

typedef float vf __attribute__((vector_size(kLanes * sizeof(float))));
typedef int32_t vi __attribute__((vector_size(kLanes * sizeof(int32_t))));
typedef uint32_t vu __attribute__((vector_size(kLanes * sizeof(uint32_t))));
typedef uint16_t vh __attribute__((vector_size(kLanes * sizeof(uint16_t))));
typedef uint8_t vb __attribute__((vector_size(kLanes * sizeof(uint8_t))));

#define SKY4_INLINE inline __attribute__((always_inline))

template <typename V>
SKY4_INLINE V load_as(const void* from) {
    V x;
    __builtin_memcpy(&x, from, sizeof x);
    return x;
}

template <typename V>
SKY4_INLINE void store_as(void* to, V x) {
    __builtin_memcpy(to, &x, sizeof x);
}

// Conversions of width are named where the level has them: compilers make up to five instructions of one.
#if defined(__AVX512F__) && SKY4_LANES == 16
// The unmasked forms of these intrinsics make GCC 12 warn of an uninitialised register of its own.
constexpr __mmask16 kAllLanes = 0xffff;
#endif

// The bits of kLanes values, to be moved rather than computed with; those of bfloat16 in the lower halves.
SKY4_INLINE vu raw(const float* from) { return load_as<vu>(from); }
SKY4_INLINE vu raw(const bf16* from) {
#if defined(__AVX512F__) && SKY4_LANES == 16
    return reinterpret_cast<vu>(_mm512_maskz_cvtepu16_epi32(kAllLanes, load_as<__m256i>(from)));
#elif defined(__AVX2__) && SKY4_LANES == 8
    return reinterpret_cast<vu>(_mm256_cvtepu16_epi32(load_as<__m128i>(from)));
#else
    return __builtin_convertvector(load_as<vh>(from), vu);
#endif
}

SKY4_INLINE void store_raw(float* to, vu bits) { store_as(to, bits); }
SKY4_INLINE void store_raw(bf16* to, vu bits) {
#if defined(__AVX512F__) && SKY4_LANES == 16
    store_as(to, _mm512_maskz_cvtepi32_epi16(kAllLanes, reinterpret_cast<__m512i>(bits)));
#elif defined(__AVX2__) && SKY4_LANES == 8
    const __m256i halves = reinterpret_cast<__m256i>(bits);
    store_as(to, _mm_packus_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1)));
#else
    store_as(to, __builtin_convertvector(bits, vh));
#endif
}

// kLanes values as float32.
SKY4_INLINE vf load(const float* from) { return load_as<vf>(from); }
SKY4_INLINE vf load(const bf16* from) { return reinterpret_cast<vf>(raw(from) << 16); }

// To nearest, ties to even; NaN becomes the (quiet) NaN of all ones.
SKY4_INLINE vu round_to_bf16_bits(vf x) {
    const vu bits = reinterpret_cast<vu>(x);
    return ((bits + 0x7fffu + ((bits >> 16) & 1u)) | reinterpret_cast<vu>(x != x)) >> 16;
}

SKY4_INLINE void store(float* to, vf x) { store_as(to, x); }
SKY4_INLINE void store(bf16* to, vf x) { store_raw(to, round_to_bf16_bits(x)); }

SKY4_INLINE float to_f32(float x) { return x; }
SKY4_INLINE float to_f32(bf16 x) {
    const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
    float value;
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
}

// The first `count` < kLanes values, zeros after them; and back.
template <typename T>
SKY4_INLINE vf load_part(const T* from, int count) {
    T part[kLanes];
    __builtin_memset(part, 0, sizeof part);
    __builtin_memcpy(part, from, static_cast<size_t>(count) * sizeof(T));
    return load(part);
}

template <typename T>
SKY4_INLINE void store_part(T* to, vf x, int count) {
    T part[kLanes];
    store(part, x);
    __builtin_memcpy(to, part, static_cast<size_t>(count) * sizeof(T));
}

template <typename V, typename S>
SKY4_INLINE V broadcast(S x) {
#if SKY4_LANES == 4
    return V{x, x, x, x};
#elif SKY4_LANES == 8
    return V{x, x, x, x, x, x, x, x};
#else
    return V{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x};
#endif
}

SKY4_INLINE vf splat(float x) { return broadcast<vf>(x); }
SKY4_INLINE vi splat(int32_t x) { return broadcast<vi>(x); }

// a * b + c, rounded once where the level has the instruction. Written out because the compiler may not fuse by itself
// here (-ffp-contract=off): kernels that must give the same bits everywhere write a * b + c.
SKY4_INLINE vf fma(vf a, vf b, vf c) {
#if defined(__AVX512F__) && SKY4_LANES == 16
    return _mm512_fmadd_ps(a, b, c);
#elif defined(__FMA__) && SKY4_LANES == 8
    return _mm256_fmadd_ps(a, b, c);
#elif defined(__aarch64__) && SKY4_LANES == 4
    return vfmaq_f32(c, a, b);
#else
    return a * b + c;
#endif
}

// Where either is NaN: b.
SKY4_INLINE vf max(vf a, vf b) { return a > b ? a : b; }

// Every lane gets lane (i & kAnd) ^ kXor.
template <int kAnd, int kXor, int... kLane>
SKY4_INLINE vf permuted(vf x, std::integer_sequence<int, kLane...>) {
    return __builtin_shufflevector(x, x, ((kLane & kAnd) ^ kXor)...);
}

// Lanes exchanged with those kStep away; even or odd lanes in both places of their pair.
template <int kStep>
SKY4_INLINE vf exchanged(vf x) {
    return permuted<-1, kStep>(x, std::make_integer_sequence<int, kLanes>{});
}
SKY4_INLINE vf even_doubled(vf x) { return permuted<-2, 0>(x, std::make_integer_sequence<int, kLanes>{}); }
SKY4_INLINE vf odd_doubled(vf x) { return permuted<-2, 1>(x, std::make_integer_sequence<int, kLanes>{}); }

SKY4_INLINE float sum(vf x) {
    if constexpr (kLanes > 8) x += exchanged<8>(x);
    if constexpr (kLanes > 4) x += exchanged<4>(x);
    x += exchanged<2>(x);
    return x[0] + x[1];
}

SKY4_INLINE float max(vf x) {
    float parts[kLanes];
    store(parts, x);
    for (int half = kLanes / 2; half > 0; half /= 2)
        for (int i = 0; i < half; ++i) parts[i] = parts[i] > parts[i + half] ? parts[i] : parts[i + half];
    return parts[0];
}

}  // namespace
}  // namespace sky4::cpu::SKY4_LEVEL
