#include "forward_launch.h"

namespace sky4::cuda::sm80 {
template void forward<128>(const AttentionParams&, const Launch&);
}
