#include "select_cubes.h"

#include <string>

#include "dispatch.h"

namespace sky4 {
namespace {

constexpr const char* kName = "select_cubes";

void check(const SelectCubes& args) {
    const TensorRef& q = args.queries;
    const Checked queries(kName, "queries", q), keys(kName, "keys", args.keys);
    queries.has_ndim(4).has_dense_rows();
    if (q.device == Device::cpu)
        queries.has_dtype(DType::float32, DType::bfloat16);
    else if (q.dtype != DType::float32)
        queries.has_dtype(DType::bfloat16, DType::float16);
    keys.is_on(q.device).is_on_index(q.device_index).has_dtype(q.dtype).has_ndim(4).has_dense_rows();
    keys.has_shape({q.shape[0], args.keys.shape[1], q.shape[2], q.shape[3]});
    const int64_t key_cubes = args.keys.shape[1];
    if (args.keep < 1 || args.keep > key_cubes)
        throw WrongValue(std::string(kName) + ": keep is " + std::to_string(args.keep) + ", expected 1 to " +
                         std::to_string(key_cubes) + " (the key cubes)");
    const Checked selected(kName, "selected", args.selected);
    selected.is_on(q.device).is_on_index(q.device_index).has_dtype(DType::int32);
    selected.has_shape({q.shape[0], q.shape[2], q.shape[1], (key_cubes + 31) / 32}).is_contiguous();
}

}  // namespace

void select_cubes(const SelectCubes& args) {
    check(args);
    on_device(kName, args.queries.device, args, cpu::select_cubes, SKY4_ON_CUDA(cuda::select_cubes));
}

}  // namespace sky4
