#include "dense_kernel.h"

namespace sky4::cuda::sm90 {

template cudaError_t launch_dense<DType::bfloat16, 64, 192>(const DenseParams&, int, cudaStream_t);
template cudaError_t launch_dense<DType::bfloat16, 128, 128>(const DenseParams&, int, cudaStream_t);
template cudaError_t launch_dense<DType::bfloat16, 128, 176>(const DenseParams&, int, cudaStream_t);

}  // namespace sky4::cuda::sm90
