#include "sparse_single_kernel.h"
#include "sparse_triple_kernel.h"

namespace sky4::cuda::sm90 {

template cudaError_t launch_sparse_single<DType::float16, 64>(const SparseParams&, cudaStream_t);
template cudaError_t launch_sparse_single<DType::float16, 128>(const SparseParams&, cudaStream_t);
template cudaError_t launch_sparse_triple<DType::float16, 64>(const SparseParams&, cudaStream_t);
template cudaError_t launch_sparse_triple<DType::float16, 128>(const SparseParams&, cudaStream_t);

}  // namespace sky4::cuda::sm90
