// Share independent items among threads: on the OpenMP threads that the process (torch) already keeps, else on our own.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace sky4::cpu {

// The least of the processors, SKY4_THREADS where set, and the process's OpenMP limit (torch.set_num_threads).
// Throws WrongValue where SKY4_THREADS is no positive whole number.
int64_t thread_limit();

// Runs task(context) once on each of at most `workers` threads, the caller's among them; returns when all are done.
// It may come to fewer runs (inside another parallel region, or short of threads): tasks share their work by a counter.
void run_on_team(int64_t workers, void (*task)(void*), void* context);

// body(share, first, last) over [0, items) in pieces of `grain` items, handed out one after the other to at most
// `limit` threads. `share` < limit tells the threads' scratch apart; a share takes many pieces. `body` must not throw.
template <typename Body>
void parallel_for(int64_t items, int64_t grain, int64_t limit, const Body& body) {
    if (items <= 0) return;
    grain = std::max<int64_t>(grain, 1);
    const int64_t pieces = (items + grain - 1) / grain;
    const int64_t workers = std::min(pieces, std::max<int64_t>(limit, 1));
    if (workers == 1) return body(0, 0, items);
    struct Work {
        const Body& body;
        int64_t items, grain;
        std::atomic<int64_t> next{0}, shares{0};
    } work{body, items, grain};
    run_on_team(
        workers,
        [](void* context) noexcept {
            Work& work = *static_cast<Work*>(context);
            const int64_t share = work.shares.fetch_add(1, std::memory_order_relaxed);
            for (;;) {
                const int64_t first = work.next.fetch_add(work.grain, std::memory_order_relaxed);
                if (first >= work.items) return;
                work.body(share, first, std::min(first + work.grain, work.items));
            }
        },
        &work);
}

}  // namespace sky4::cpu
