#include "auxiliary.h"

#include "launch.h"

namespace sky4::cuda::sm80 {
namespace {

int64_t rows_of(const AttentionParams& p) { return static_cast<int64_t>(p.batch) * p.heads * p.total_queries; }

unsigned warps_grid(int64_t items, const Launch& launch) { return grid_of((items + kWarps - 1) / kWarps, launch); }

}  // namespace

void combine(const AttentionParams& p, const Launch& launch) {
    const auto kernel = launch.dtype == DType::float16 ? combine_splits<Fp16> : combine_splits<Bf16>;
    cuda::launch(launch.kernel, kernel, dim3(warps_grid(rows_of(p), launch)), dim3(kThreads), 0, launch.stream, p,
                 launch.dim);
}

void backward_statistics(const AttentionParams& p, const Launch& launch) {
    if (rows_of(p) == 0) return;
    const auto kernel = launch.dtype == DType::float16 ? backward_stats<Fp16> : backward_stats<Bf16>;
    cuda::launch(launch.kernel, kernel, dim3(warps_grid(rows_of(p), launch)), dim3(kThreads), 0, launch.stream, p,
                 launch.dim);
}

void transpose(const uint32_t* from, uint32_t* to, int64_t matrices, int rows, int columns, const Launch& launch) {
    const int64_t items = matrices * tiles_of(rows, 32) * tiles_of(columns, 32);
    if (items == 0) return;
    cuda::launch(launch.kernel, transpose_selection, dim3(warps_grid(items, launch)), dim3(kThreads), 0, launch.stream,
                 from, to, matrices, rows, columns);
}

}  // namespace sky4::cuda::sm80
