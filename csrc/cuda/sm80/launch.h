// Host side of this path: one set of launchers per head dim, each instantiated in its own translation unit.
#pragma once

#include "../../tensor.h"
#include "../device.h"
#include "params.h"

namespace sky4::cuda::sm80 {

struct Launch {
    const char* kernel;  // for errors
    int device;
    cudaStream_t stream;
    DType dtype;  // bfloat16 or float16
    int dim;
    bool sparse;
};

// p.queries, p.keys, the views and, sparse, p.selected are filled; tiles and splits are the launcher's.
template <int kDim>
void forward(const AttentionParams& p, const Launch& launch);

template <int kDim>
void backward_keys(const AttentionParams& p, const Launch& launch);

template <int kDim>
void backward_queries(const AttentionParams& p, const Launch& launch);

// auxiliary.cu
void combine(const AttentionParams& p, const Launch& launch);
void backward_statistics(const AttentionParams& p, const Launch& launch);
void transpose(const uint32_t* from, uint32_t* to, int64_t matrices, int rows, int columns, const Launch& launch);

// Lays the tiles of `rows` rows over an axis; returns their number.
inline int lay_tiles(Axis& axis, bool sparse, int rows) {
    if (sparse) return axis.cubes;
    int tiles = 0;
    for (int s = 0; s < axis.count; ++s) {
        axis.first_tile[s] = tiles;
        tiles += (axis.length[s] + rows - 1) / rows;
    }
    return tiles;
}

// Blocks of a one-dimensional grid.
inline unsigned grid_of(int64_t blocks, const Launch& launch) {
    if (blocks > 0x7fffffff)
        throw std::runtime_error(
            std::string(launch.kernel) + ": " + std::to_string(blocks) +
            " blocks are more than a grid's 2147483647; call it on fewer heads or samples at a time");
    return static_cast<unsigned>(blocks);
}

// One of the attention kernels over p.tiles * p.splits blocks per head.
inline void run_tiles(void (*kernel)(AttentionParams), const AttentionParams& p, int shared, const Launch& launch) {
    const unsigned grid = grid_of(static_cast<int64_t>(p.tiles) * p.splits * p.heads * p.batch, launch);
    if (grid == 0) return;
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                               shared),
          launch.kernel);
    cuda::launch(launch.kernel, kernel, dim3(grid), dim3(128), shared, launch.stream, p);
}

}  // namespace sky4::cuda::sm80
