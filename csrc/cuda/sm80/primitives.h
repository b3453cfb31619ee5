// The PTX instructions that these kernels are made of, one function each, for sm_80 and above.
//
// With SKY4_EMULATED the same names come from csrc/tests/emulation_sm80, where the kernels run on the host.
// Elements are 16 bits wide and pass through here as their bits; Bf16 and Fp16 only say how to read them.
#pragma once

#include <cstdint>

#ifdef SKY4_EMULATED
#include "primitives_on_host.h"
#else

namespace sky4::cuda::sm80 {

struct Bf16 {};
struct Fp16 {};

using SharedAddress = uint32_t;  // byte address in the shared window

__device__ __forceinline__ SharedAddress dynamic_shared() {
    extern __shared__ __align__(128) unsigned char dynamic_shared_memory[];
    return static_cast<SharedAddress>(__cvta_generic_to_shared(dynamic_shared_memory));
}

// blockIdx.x, read anew at each call: what a kernel derives from it again at its end lies in no register meanwhile.
__device__ __forceinline__ unsigned block_index() {
    unsigned index;
    asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(index));
    return index;
}

// Copies 16 (8) bytes without passing through registers; of the source only `bytes` are read, the rest becomes zero.
// The 16 are one of several of a row: L2 may fetch 128 at once.
__device__ __forceinline__ void copy_async_16(SharedAddress to, const void* from, int bytes) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to),
                 "l"(__cvta_generic_to_global(from)), "r"(bytes)
                 : "memory");
}

__device__ __forceinline__ void copy_async_8(SharedAddress to, const void* from, int bytes) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(to), "l"(__cvta_generic_to_global(from)),
                 "r"(bytes)
                 : "memory");
}

// This thread's copies have landed; a barrier afterwards makes everybody's visible.
__device__ __forceinline__ void copy_async_wait() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// Four 8x8 matrices; lane l gives the address of row l % 8 of matrix l / 8 and receives of each matrix the elements
// (l / 4, 2 (l % 4)) and the next, or, transposed, those at (2 (l % 4), l / 4) and below.
__device__ __forceinline__ void ldmatrix(uint32_t (&r)[4], SharedAddress row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row)
                 : "memory");
}

__device__ __forceinline__ void ldmatrix_transposed(uint32_t (&r)[4], SharedAddress row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row)
                 : "memory");
}

// c[16 x 8] += a[16 x 16] b[16 x 8], fragments as layout.h tells.
template <typename T>
__device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

template <>
__device__ __forceinline__ void mma<Bf16>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
__device__ __forceinline__ void mma<Fp16>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Two floats, rounded to nearest even; `low` comes first in memory.
template <typename T>
__device__ __forceinline__ uint32_t pack(float low, float high);

template <>
__device__ __forceinline__ uint32_t pack<Bf16>(float low, float high) {
    uint32_t bits;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    return bits;
}

template <>
__device__ __forceinline__ uint32_t pack<Fp16>(float low, float high) {
    uint32_t bits;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    return bits;
}

template <typename T>
__device__ __forceinline__ float2 unpack(uint32_t bits);

template <>
__device__ __forceinline__ float2 unpack<Bf16>(uint32_t bits) {
    return {__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000u)};
}

template <>
__device__ __forceinline__ float2 unpack<Fp16>(uint32_t bits) {
    float2 pair;
    asm("{.reg .f16 low, high; mov.b32 {low, high}, %2; cvt.f32.f16 %0, low; cvt.f32.f16 %1, high;}"
        : "=f"(pair.x), "=f"(pair.y)
        : "r"(bits));
    return pair;
}

// 2^x; 0 for -inf.
__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ void store_shared(SharedAddress to, uint32_t x) {
    asm volatile("st.shared.b32 [%0], %1;" ::"r"(to), "r"(x) : "memory");
}

__device__ __forceinline__ uint4 load_shared_16(SharedAddress from) {
    uint4 x;
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                 : "r"(from)
                 : "memory");
    return x;
}

__device__ __forceinline__ float4 load_shared_float4(SharedAddress from) {
    float4 x;
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w)
                 : "r"(from)
                 : "memory");
    return x;
}

}  // namespace sky4::cuda::sm80
#endif
