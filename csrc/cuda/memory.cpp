// One memory pool per GPU for the kernels' temporaries.
#include <mutex>
#include <vector>

#include "device.h"

namespace sky4::cuda {
namespace {

// Kept between calls instead of going back to the driver, which takes it back at the next synchronisation and would
// then need milliseconds to give it again: the largest workspace of a kernel (256 MiB) and some.
constexpr uint64_t kKeptBytes = 320ull << 20;

cudaMemPool_t make_pool(const char* kernel, int device) {
    cudaMemPoolProps properties{};
    properties.allocType = cudaMemAllocationTypePinned;
    properties.location.type = cudaMemLocationTypeDevice;
    properties.location.id = device;
    cudaMemPool_t pool = nullptr;
    check(cudaMemPoolCreate(&pool, &properties), kernel);
    uint64_t kept = kKeptBytes;
    check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &kept), kernel);
    return pool;
}

}  // namespace

cudaMemPool_t temporary_pool(const char* kernel, int device) {
    // Never destroyed: at the end of the process the driver may be gone before us.
    static std::mutex& lock = *new std::mutex;
    static std::vector<cudaMemPool_t>& pools = *new std::vector<cudaMemPool_t>;
    const std::lock_guard<std::mutex> held(lock);
    if (pools.size() <= static_cast<size_t>(device)) pools.resize(static_cast<size_t>(device) + 1, nullptr);
    cudaMemPool_t& pool = pools[static_cast<size_t>(device)];
    if (pool == nullptr) pool = make_pool(kernel, device);
    return pool;
}

}  // namespace sky4::cuda
