// float16 as the kernels use it; see cuda_runtime.h beside this.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

struct __half {
    uint16_t bits;
};

inline __half __ushort_as_half(uint16_t bits) { return {bits}; }
inline uint16_t __half_as_ushort(__half x) { return x.bits; }

inline float __half2float(__half x) {
    const int exponent = x.bits >> 10 & 31, fraction = x.bits & 1023;
    float value;
    if (exponent == 31)
        value = fraction != 0 ? std::numeric_limits<float>::quiet_NaN() : std::numeric_limits<float>::infinity();
    else if (exponent == 0)
        value = std::ldexp(static_cast<float>(fraction), -24);
    else
        value = std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
    return x.bits >> 15 != 0 ? -value : value;
}

// Rounds to the nearest multiple of the float16 spacing at x (nearbyint: ties to even), then looks up its bits.
inline __half __float2half_rn(float x) {
    const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
    const float size = std::fabs(x);
    if (std::isnan(x)) return {0x7fff};
    if (size >= 65520.0f) return {static_cast<uint16_t>(sign | 0x7c00)};
    int exponent = 0;
    std::frexp(size, &exponent);  // size < 2^exponent
    const int spacing = size < std::ldexp(1.0f, -14) ? -24 : exponent - 11;
    const float steps = std::nearbyint(std::ldexp(size, -spacing));
    // Normal numbers hold 1024 to 2048 steps, of which 2048 is the next exponent's first.
    const int bits = spacing == -24 && steps < 1024 ? static_cast<int>(steps)
                                                    : (spacing + 24 + 1) * 1024 + static_cast<int>(steps) - 1024;
    return {static_cast<uint16_t>(sign | bits)};
}
