// Share a range of independent items among threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "../check.h"

namespace sky4::cpu {

// SKY4_THREADS, never more than the processors this process may use; unset = all of them.
inline int64_t thread_limit() {
    const int64_t processors = std::max(1u, std::thread::hardware_concurrency());
    const char* wanted = std::getenv("SKY4_THREADS");
    if (wanted == nullptr || *wanted == '\0') return processors;
    char* end = nullptr;
    const long long count = std::strtoll(wanted, &end, 10);
    if (*end != '\0' || count < 1)
        throw WrongValue(std::string("SKY4_THREADS is '") + wanted + "', expected a positive whole number");
    return std::min<int64_t>(count, processors);
}

// body(share, first, last) over [0, items) in at most `limit` contiguous shares of about `grain` items or more; the
// caller's thread takes one. `share` < limit tells the threads' scratch apart. `body` must not throw.
template <typename Body>
void parallel_for(int64_t items, int64_t grain, int64_t limit, const Body& body) {
    if (items <= 0) return;
    const int64_t shares = std::clamp<int64_t>(items / std::max<int64_t>(grain, 1), 1, std::max<int64_t>(limit, 1));
    const auto bound = [&](int64_t share) { return items / shares * share + std::min(share, items % shares); };
    std::vector<std::thread> threads;
    threads.reserve(static_cast<size_t>(shares));
    int64_t given = 1;
    try {
        for (; given < shares; ++given) threads.emplace_back(body, given, bound(given), bound(given + 1));
    } catch (const std::system_error&) {
        // The system gives no more threads: the caller does the remaining shares itself.
    }
    body(0, 0, bound(1));
    if (given < shares) body(0, bound(given), items);
    for (std::thread& thread : threads) thread.join();
}

}  // namespace sky4::cpu
