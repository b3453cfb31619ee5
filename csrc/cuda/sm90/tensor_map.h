// Descriptors for the copy engine (TMA).
#pragma once

#include <cuda.h>

#include "../../tensor.h"

namespace sky4::cuda::sm90 {

// Whether the copy engine can read, and 16-byte stores can write, the tensor [B, L, H, d].
bool suits_copies(const TensorRef& tensor);

// Boxes of `rows` tokens with all channels of one head, as tiles.h describes them. Axes: channel within its panel of
// 64, token, panel, head, batch. The tensor holds at least one token.
CUtensorMap tensor_map(const TensorRef& tensor, int rows, const char* kernel);

}  // namespace sky4::cuda::sm90
