// A second pool of threads beside torch's would fight it for the processors, and a new thread costs 20 us, so we borrow
// the OpenMP library of the process by name. GCC's (which torch's Linux packages bring) and LLVM's (macOS) have each
// their own entry for "run this on a team"; neither is linked here.
#include "parallel.h"

#include <dlfcn.h>

#include <cstdlib>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "../check.h"

namespace sky4::cpu {
namespace {

// LLVM's description of a source position; all it asks of ours is to be there.
struct KmpLocation {
    int32_t reserved_1 = 0, flags = 2, reserved_2 = 0, reserved_3 = 0;
    const char* source = ";sky4;run_on_team;0;0;;";
};
using KmpTask = void (*)(int32_t*, int32_t*, void (*)(void*), void*);

struct OpenMP {
    int (*max_threads)() = nullptr;
    void (*gomp_parallel)(void (*)(void*), void*, unsigned, unsigned) = nullptr;
    int32_t (*kmp_thread)(KmpLocation*) = nullptr;
    void (*kmp_push_threads)(KmpLocation*, int32_t, int32_t) = nullptr;
    void (*kmp_fork)(KmpLocation*, int32_t, KmpTask, ...) = nullptr;

    bool is_there() const { return max_threads && (gomp_parallel || (kmp_thread && kmp_push_threads && kmp_fork)); }
};

template <typename Function>
void look_up(Function& function, const char* name) {
    function = reinterpret_cast<Function>(dlsym(RTLD_DEFAULT, name));
}

// Looked up until it is there: this module may be imported before torch.
const OpenMP& openmp() {
    static std::atomic<const OpenMP*> found{nullptr};
    if (const OpenMP* known = found.load(std::memory_order_acquire)) return *known;
    thread_local OpenMP now;
    look_up(now.max_threads, "omp_get_max_threads");
    look_up(now.kmp_fork, "__kmpc_fork_call");
    look_up(now.kmp_thread, "__kmpc_global_thread_num");
    look_up(now.kmp_push_threads, "__kmpc_push_num_threads");
    look_up(now.gomp_parallel, "GOMP_parallel");
    if (now.is_there()) {
        static const OpenMP kept = now;
        found.store(&kept, std::memory_order_release);
    }
    return now;
}

void kmp_task(int32_t*, int32_t*, void (*task)(void*), void* context) { task(context); }

void run_on_own_threads(int64_t workers, void (*task)(void*), void* context) {
    std::vector<std::thread> threads;
    try {
        threads.reserve(static_cast<size_t>(workers));
        while (static_cast<int64_t>(threads.size()) < workers - 1) threads.emplace_back(task, context);
    } catch (const std::exception&) {
        // The system gives no more threads: those that there are do the work.
    }
    task(context);
    for (std::thread& thread : threads) thread.join();
}

}  // namespace

int64_t thread_limit() {
    static const int64_t processors = std::max(1u, std::thread::hardware_concurrency());
    int64_t limit = processors;
    if (const OpenMP& omp = openmp(); omp.is_there()) limit = std::clamp<int64_t>(omp.max_threads(), 1, limit);
    const char* wanted = std::getenv("SKY4_THREADS");
    if (wanted == nullptr || *wanted == '\0') return limit;
    char* end = nullptr;
    const long long count = std::strtoll(wanted, &end, 10);
    if (*end != '\0' || count < 1)
        throw WrongValue(std::string("SKY4_THREADS is '") + wanted + "', expected a positive whole number");
    return std::min<int64_t>(count, limit);
}

void run_on_team(int64_t workers, void (*task)(void*), void* context) {
    const OpenMP& omp = openmp();
    if (!omp.is_there()) return run_on_own_threads(workers, task, context);
    if (omp.gomp_parallel) return omp.gomp_parallel(task, context, static_cast<unsigned>(workers), 0);
    KmpLocation here;
    omp.kmp_push_threads(&here, omp.kmp_thread(&here), static_cast<int32_t>(workers));
    omp.kmp_fork(&here, 2, kmp_task, task, context);
}

}  // namespace sky4::cpu
