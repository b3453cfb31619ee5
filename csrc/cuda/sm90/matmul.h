// The two products of attention on the tensor cores, one warpgroup each: S = Q KT and O += P V.
//
// Fragments (PTX, wgmma D): thread t of the warpgroup holds of row 16 (t / 32) + t % 32 / 4 + 8 r and column
// 8 n + 2 (t % 4) + i the element 4 n + 2 r + i; r, i in {0, 1}. Row pairs `r` are indexed so throughout these kernels.
#pragma once

#include <cutlass/numeric_conversion.h>
#include <cute/arch/mma_sm90.hpp>
#include <cute/tensor.hpp>

#include "tiles.h"

namespace sky4::cuda::sm90 {

// Q from shared memory too: kept in registers it would leave too few for the rest (spills, serialised wgmma).
template <class T, int kKeys>
struct ScoresMma {
    using Op = decltype(cute::GMMA::ss_op_selector<T, T, float, cute::Shape<cute::_64, cute::Int<kKeys>, cute::_64>,
                                                   cute::GMMA::Major::K, cute::GMMA::Major::K>());
    static_assert(cute::size<1>(typename cute::MMA_Traits<Op>::Shape_MNK{}) == kKeys,
                  "one wgmma must span the tile: is CUTE_SM90_EXTENDED_MMA_SHAPES_ENABLED defined?");
    using type = decltype(cute::make_tiled_mma(Op{}));
};

// P from registers: its fragment as result of the scores is, rounded, its fragment as left operand.
template <class T, int kChannels>
struct OutputMma {
    using Op = decltype(cute::GMMA::rs_op_selector<T, T, float, cute::Shape<cute::_64, cute::Int<kChannels>, cute::_64>,
                                                   cute::GMMA::Major::K, cute::GMMA::Major::MN>());
    static_assert(cute::size<1>(typename cute::MMA_Traits<Op>::Shape_MNK{}) == kChannels);
    using type = decltype(cute::make_tiled_mma(Op{}));
};

template <class T, int kKeys>
using ProbabilityLayout =
    cute::Layout<cute::Shape<cute::Shape<cute::_2, cute::_2, cute::_2>, cute::_1, cute::Int<kKeys / 16>>>;

enum class Accumulate { no, yes };

// Issues c (+)= a b asynchronously as one group; nothing may touch c, nor a in registers, before `finish`.
template <Accumulate kAccumulate, class Mma, class A, class B, class C>
__device__ __forceinline__ void issue(Mma& mma, const A& a, const B& b, C& c) {
    cute::warpgroup_fence_operand(c);
    constexpr bool kShared = cute::is_base_of<cute::GMMA::DescriptorIterator, typename Mma::FrgTypeA>::value;
    if constexpr (!kShared) cute::warpgroup_fence_operand(const_cast<A&>(a));
    cute::warpgroup_arrive();
    mma.accumulate_ = kAccumulate == Accumulate::yes ? cute::GMMA::ScaleOut::One : cute::GMMA::ScaleOut::Zero;
    CUTE_UNROLL
    for (int k = 0; k < cute::size<2>(a); ++k) {
        cute::gemm(mma, a(cute::_, cute::_, k), b(cute::_, cute::_, k), c);
        mma.accumulate_ = cute::GMMA::ScaleOut::One;
    }
    cute::warpgroup_commit_batch();
}

// Waits until at most kPending younger groups are in flight; c, written by an older one, may then be read.
template <int kPending, class C>
__device__ __forceinline__ void finish(C& c) {
    cute::warpgroup_wait<kPending>();
    cute::warpgroup_fence_operand(c);
}

// P = round(S), the one rounding before P V.
template <class T, class Scores, class Probabilities>
__device__ __forceinline__ void round_scores(const Scores& scores, Probabilities& p) {
    cutlass::NumericArrayConverter<T, float, 2> convert;
    const auto from = cute::recast<const cutlass::Array<float, 2>>(scores);
    auto to = cute::recast<cutlass::Array<T, 2>>(p);
    CUTE_UNROLL
    for (int i = 0; i < cute::size(to); ++i) to(i) = convert(from(i));
}

}  // namespace sky4::cuda::sm90
