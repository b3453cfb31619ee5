// A [B, N, H, d] tensor as the levels' translation units see it: no class with members that could be compiled twice.
#pragma once

#include <cstdint>

namespace sky4::cpu {

// Strides in elements; that of d is 1.
struct RowView {
    void* data = nullptr;
    int64_t batch = 0, token = 0, head = 0;
};

}  // namespace sky4::cpu
