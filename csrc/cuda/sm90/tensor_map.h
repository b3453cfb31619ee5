// Descriptors for the copy engine (TMA) and what else the launchers of this folder need of the device.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <string>

#include "../../tensor.h"

namespace sky4::cuda::sm90 {

// Throws std::runtime_error naming `kernel` unless status is success.
void check(cudaError_t status, const char* kernel);

// Makes `device` current while it lives.
class OnDevice {
public:
    OnDevice(int device, const char* kernel);
    ~OnDevice();
    OnDevice(const OnDevice&) = delete;
    OnDevice& operator=(const OnDevice&) = delete;

private:
    int previous_ = 0;
};

bool is_hopper(int device);

// Whether the copy engine can read, and 16-byte stores can write, the tensor [B, L, H, d].
bool suits_copies(const TensorRef& tensor);

// Boxes of `rows` tokens with all channels of one head, as tiles.h describes them. Axes: channel within its panel of
// 64, token, panel, head, batch. The tensor holds at least one token.
CUtensorMap tensor_map(const TensorRef& tensor, int rows, const char* kernel);

}  // namespace sky4::cuda::sm90
