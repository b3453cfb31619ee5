// latent_assemble over the vectors of one level. Compiled with -ffp-contract=off: the bits are the reference's.
#pragma once

#include "latent_assemble_planes.h"
#include "vector.h"

namespace sky4::cpu::SKY4_LEVEL {
namespace {

SKY4_INLINE vf mix(vf a, vf b, vf weight) { return a * (1.0f - weight) + b * weight; }

template <typename T>
SKY4_INLINE const T* row_of(const Grid& grid, int64_t b, int64_t c, int64_t t, int64_t y) {
    return static_cast<const T*>(grid.data) + b * grid.batch + c * grid.channel + t * grid.frame + y * grid.row;
}

// The x axis as this level reads it, a vector of cells at a time: `low` and `high` count from `first_low` and
// `first_high` of the vector where all of them lie within one vector from there, else from the line's begin.
struct Across {
    int64_t W;
    const int32_t *first_low, *first_high;
    int32_t *low, *high;
    float *weight, *rest;  // weight of the upper neighbour, 1 - weight
    bool is_near;

    Across(const AssemblePlanes& planes, float* scratch)
        : W(planes.W), first_low(planes.x.low), first_high(planes.x.high), is_near(W >= planes.low_width) {
        const int64_t padded = W + kAssemblePad;
        low = reinterpret_cast<int32_t*>(scratch), high = low + padded;
        weight = scratch + 2 * padded, rest = weight + padded;
        for (int64_t x = 0; x < padded; ++x) {
            const int64_t first = x / kLanes * kLanes;
            low[x] = first_low[x] - (is_near ? first_low[first] : 0);
            high[x] = first_high[x] - (is_near ? first_high[first] : 0);
            weight[x] = planes.x.weight[x];
            rest[x] = 1.0f - weight[x];
        }
    }
};

// line[at[0]], line[at[1]], ..; where they are near they lie within one vector.
template <bool kNear>
SKY4_INLINE vf gather(const float* line, const int32_t* at) {
    const vi index = load_as<vi>(at);
#if defined(__AVX512F__)
    if constexpr (kNear) return _mm512_maskz_permutexvar_ps(kAllLanes, (__m512i)index, load(line));
#elif defined(__AVX2__)
    if constexpr (kNear) return _mm256_permutevar8x32_ps(load(line), (__m256i)index);
#endif
    vf v;
    for (int i = 0; i < kLanes; ++i) v[i] = line[index[i]];
    return v;
}

// out [W] = the line interpolated along x.
template <bool kNear, typename T>
SKY4_INLINE void interpolate(const Across& across, const float* line, T* out) {
    const auto at = [&](int64_t x) {
        const vf a = gather<kNear>(line + (kNear ? across.first_low[x] : 0), across.low + x);
        const vf b = gather<kNear>(line + (kNear ? across.first_high[x] : 0), across.high + x);
        return a * load(across.rest + x) + b * load(across.weight + x);
    };
    const int64_t W = across.W;
    int64_t x = 0;
    for (; x + kLanes <= W; x += kLanes) store(out + x, at(x));
    if (x < W) store_part(out + x, at(x), W - x);
}

// line [low_width + a vector] = the low rows around frame t and row y, interpolated along y, then along time.
template <typename T>
SKY4_INLINE void low_line(const AssemblePlanes& planes, int64_t b, int64_t c, int64_t t, int64_t y, float* line) {
    const int64_t t0 = planes.time.low[t], t1 = planes.time.high[t], y0 = planes.y.low[y], y1 = planes.y.high[y];
    const vf in_time = splat(planes.time.weight[t]), in_y = splat(planes.y.weight[y]);
    const T *a = row_of<T>(planes.low, b, c, t0, y0), *a_below = row_of<T>(planes.low, b, c, t0, y1);
    const T *z = row_of<T>(planes.low, b, c, t1, y0), *z_below = row_of<T>(planes.low, b, c, t1, y1);
    const int64_t width = planes.low_width;
    int64_t x = 0;
    for (; x + kLanes <= width; x += kLanes)
        store(line + x,
              mix(mix(load(a + x), load(a_below + x), in_y), mix(load(z + x), load(z_below + x), in_y), in_time));
    const int64_t rest = width - x;  // may be zero: the vector beyond the row's end is then all zero
    const auto part = [&](const T* from) { return load_part(from + x, rest); };
    store(line + x, mix(mix(part(a), part(a_below), in_y), mix(part(z), part(z_below), in_y), in_time));
}

// The cells that take the source, as lanes of ones.
template <typename T>
SKY4_INLINE vu source_lanes(const T* keep) {
    return (vu)(load(keep) == 1.0f);
}
SKY4_INLINE vu source_lanes(const uint8_t* keep) { return (vu)(__builtin_convertvector(load_as<vb>(keep), vi) != 0); }
SKY4_INLINE bool takes_source(uint8_t keep) { return keep != 0; }
template <typename T>
SKY4_INLINE bool takes_source(T keep) {
    return to_f32(keep) == 1.0f;
}

// out [W] = source where `keep` says so.
template <typename T, typename Keep>
SKY4_INLINE void paste(const T* source, const Keep* keep, int64_t W, T* out) {
    int64_t x = 0;
    for (; x + kLanes <= W; x += kLanes) {
        const vu taken = source_lanes(keep + x);
        store_raw(out + x, (taken & raw(source + x)) | (~taken & raw(out + x)));
    }
    for (; x < W; ++x)
        if (takes_source(keep[x])) out[x] = source[x];
}

template <typename T>
void assemble_planes_of(const AssemblePlanes& planes, int64_t first, int64_t last, float* scratch) {
    const int64_t C = planes.C, T2 = planes.T2, H = planes.H, W = planes.W;
    const Across across(planes, scratch);
    float* line = scratch + 4 * (W + kAssemblePad);
    for (int64_t plane = first; plane < last; ++plane) {
        const int64_t t = plane % T2, channel = plane / T2 % (2 * C), b = plane / T2 / (2 * C);
        const bool condition = channel >= C;
        const int64_t c = condition ? channel - C : channel, k = planes.keyframe_of[t];
        T* out = static_cast<T*>(planes.out) + plane * H * W;
        for (int64_t y = 0; y < H; ++y, out += W) {
            if (condition && k < 0) {
                low_line<T>(planes, b, c, t, y, line);
                if (across.is_near)
                    interpolate<true>(across, line, out);
                else
                    interpolate<false>(across, line, out);
            } else {
                const T* row =
                    condition ? row_of<T>(planes.keyframes, b, c, k, y) : row_of<T>(planes.noise, b, c, t, y);
                __builtin_memcpy(out, row, static_cast<size_t>(W) * sizeof(T));
            }
            if (!condition || planes.source.data == nullptr) continue;
            const T* source = row_of<T>(planes.source, b, c, t, y);
            if (planes.mask_is_bytes)
                paste(source, row_of<uint8_t>(planes.mask, b, 0, t, y), W, out);
            else
                paste(source, row_of<T>(planes.mask, b, 0, t, y), W, out);
        }
    }
}

// Planes first .. last - 1 of B * 2 C * T2; scratch as assemble_scratch tells.
void assemble_planes(const AssemblePlanes& planes, int64_t first, int64_t last, float* scratch) {
    (planes.is_bf16 ? assemble_planes_of<bf16> : assemble_planes_of<float>)(planes, first, last, scratch);
}

}  // namespace
}  // namespace sky4::cpu::SKY4_LEVEL
