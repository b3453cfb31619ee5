#include "backward_launch.h"

namespace sky4::cuda::sm80 {
template void backward_keys<32>(const AttentionParams&, const Launch&);
template void backward_queries<32>(const AttentionParams&, const Launch&);
}  // namespace sky4::cuda::sm80
