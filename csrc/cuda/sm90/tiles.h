// Tiles of tokens in shared memory, as the copy engine writes them and wgmma reads them.
//
// A tile holds R rows (tokens) of d channels in panels of 64 channels: panel p is R rows of 128 bytes, and within each
// group of 8 rows the 16-byte chunk c of row r lies at chunk c ^ (r % 8) (128-byte swizzle). As operand of Q KT the
// channels are the contracted axis (K-major); as B operand of P V the tokens are, and the same bytes are MN-major.
#pragma once

#include <cute/tensor.hpp>

#include <cutlass/numeric_types.h>
#include <cute/arch/copy_sm90_tma.hpp>
#include <cute/atom/mma_atom.hpp>

#include "../../tensor.h"
#include "barriers.h"

namespace sky4::cuda::sm90 {

template <DType>
struct Element;
template <>
struct Element<DType::bfloat16> {
    using type = cutlass::bfloat16_t;
};
template <>
struct Element<DType::float16> {
    using type = cutlass::half_t;
};

constexpr int kPanel = 64;  // channels: 128 bytes, the widest swizzle

// [rows, channels, slots]
template <class T, int kRows, int kChannels, int kSlots = 1>
using TokenMajor = decltype(cute::tile_to_shape(
    cute::GMMA::Layout_K_SW128_Atom<T>{}, cute::Shape<cute::Int<kRows>, cute::Int<kChannels>, cute::Int<kSlots>>{}));

// [channels, rows, slots]: the transposed view of the same bytes; rows are tiled before panels.
template <class T, int kRows, int kChannels, int kSlots = 1>
using ChannelMajor = decltype(cute::tile_to_shape(
    cute::GMMA::Layout_MN_SW128_Atom<T>{}, cute::Shape<cute::Int<kChannels>, cute::Int<kRows>, cute::Int<kSlots>>{},
    cute::Step<cute::_2, cute::_1, cute::_3>{}));

// Copies the tile whose first token is `row`; tokens past the tensor's end arrive as zeros and count as bytes all the
// same. The map's axes are those of tensor_map.h.
template <class T>
__device__ __forceinline__ void load_tile(const CUtensorMap& map, Barrier& full, T* tile, int row, int head, int batch,
                                          cute::TMA::CacheHintSm90 hint) {
    cute::SM90_TMA_LOAD_5D::copy(&map, reinterpret_cast<uint64_t*>(&full), static_cast<uint64_t>(hint), tile, 0, row, 0,
                                 head, batch);
}

}  // namespace sky4::cuda::sm90
