// select_cubes on the CPU: the query rows of all heads shared among threads.

#include "../select_cubes.h"

#include <algorithm>
#include <vector>

#include "isa.h"
#include "parallel.h"
#include "select_cubes_rows.h"

namespace sky4::cpu {
namespace {

// Bytes of scores one thread holds: of the second-level cache's order. A range has the widest level's tile at least.
constexpr int64_t kScoreBytes = int64_t{4} << 20;
constexpr int64_t kWidestTile = 32;

}  // namespace

void select_cubes(const SelectCubes& args) {
    const TensorRef &q = args.queries, &k = args.keys;
    SelectRows rows;
    rows.queries = {q.data, q.stride[0], q.stride[1], q.stride[2]};
    rows.keys = {k.data, k.stride[0], k.stride[1], k.stride[2]};
    rows.is_bf16 = q.dtype == DType::bfloat16;
    rows.M_q = q.shape[1], rows.M_k = k.shape[1], rows.H = q.shape[2], rows.d = q.shape[3];
    rows.padded_keys = (rows.M_k + kSelectKeys - 1) / kSelectKeys * kSelectKeys;
    rows.keep = args.keep;
    rows.selected = args.selected.as<int32_t>();

    const int64_t fitting = kScoreBytes / 4 / rows.padded_keys / kWidestTile * kWidestTile;
    const int64_t range = std::clamp(fitting, kWidestTile, kSelectRows);
    const int64_t ranges = (rows.M_q + range - 1) / range, items = q.shape[0] * rows.H * ranges;
    const int64_t threads = std::min(thread_limit(), std::max<int64_t>(items, 1)), size = select_scratch(rows, range);
    const KernelTable& level = kernels();
    std::vector<float> scratch(static_cast<size_t>(threads * size));
    parallel_for(items, 1, threads, [&](int64_t share, int64_t first, int64_t last) noexcept {
        for (int64_t i = first; i < last; ++i) {
            const int64_t row = i % ranges * range, head = i / ranges % rows.H, b = i / ranges / rows.H;
            level.select_rows(rows, b, head, row, std::min(row + range, rows.M_q), scratch.data() + share * size);
        }
    });
}

}  // namespace sky4::cpu
