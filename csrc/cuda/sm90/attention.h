// The Hopper kernels behind cuda::joint_attention and cuda::block_sparse_attention.
//
// Each returns false, with nothing done, where it does not serve the case: another device than compute capability 9.0,
// head dims other than 64 and 128, a scale that is not positive, addresses or strides that are no multiples of 16 bytes
// (the copy engine's condition), an expanded axis. The caller then takes the mma.sync path.
//
// Rows of V between a segment's length and the end of its tensor are multiplied by zero, not skipped: they must be
// finite, as must the rows of V in the cubes beside a selected one.
//
// SKY4_SM90_KEY_TILE=128 or 176: keys per tile at head dim 128 (otherwise the one that pads less, with a handicap for
// 128). SKY4_SM90_SPARSE=single or triple: query cubes per block (single unless set).
#pragma once

#include "../../block_sparse_attention.h"
#include "../../joint_attention.h"

namespace sky4::cuda::sm90 {

bool joint_attention(const JointAttention& args);
bool block_sparse_attention(const BlockSparseAttention& args);

}  // namespace sky4::cuda::sm90
