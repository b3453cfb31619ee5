// A CUDA block on the host, one fiber per thread, to prove kernels where no GPU is at hand.
//
// All lanes of a warp must take part in the same warp-wide operation, all threads in a barrier. Shared memory begins
// as NaN and is watched: reading what was never written, or touching what another thread touches with no barrier
// between, is an error, and so is all but waiting for what a cp.async has in flight. Bank conflicts are counted.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

namespace sky4::emulated {

[[noreturn]] inline void fail(const char* what) {
    std::fprintf(stderr, "emulated kernel: %s\n", what);
    std::abort();
}

struct Index {
    unsigned x, y, z;
};

enum class Op : int { none, ldmatrix, ldmatrix_transposed, mma, shuffle, ballot, sync, store };

struct Fiber {
    ucontext_t context;  // to begin with; from then on `jump`, which costs no system call
    jmp_buf jump;
    std::vector<unsigned char> stack;
    bool begun = false, done = false;
    const int64_t* waits_for = nullptr;  // runnable once this has left `since`
    int64_t since = 0;
};

// What is known of four bytes of shared memory.
struct Granule {
    bool written = false;
    int in_flight = -1;  // thread whose cp.async has not landed
    int writer = -1, reader = -1, other_reader = -1;
    int64_t write_block_step = -1, write_warp_step = -1, read_block_step = -1, read_warp_step = -1;
};

struct Warp {
    int arrived = 0;
    int64_t step = 0;  // warp-wide operations so far
    int64_t syncs = 0;
    Op op = Op::none;
    alignas(16) unsigned char slots[2][32][64];
};

struct PendingCopy {
    uint32_t to;
    const void* from;
    int bytes, size;
};

struct Block {
    int threads = 0, arrived = 0;
    int64_t step = 0;  // barriers so far
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    std::vector<std::vector<PendingCopy>> pending;
    std::vector<unsigned char> shared;
    std::vector<Granule> granules;
    ucontext_t home;
    int current = 0;
    int stride = 1;  // odd: fibers take turns in this order, so that several orders can be tried
    std::function<void()> body;
    Index block{}, grid{};
    int64_t bank_conflicts = 0;
};

inline Block& block() {
    static Block instance;
    return instance;
}

inline int me() { return block().current; }
inline Warp& my_warp() { return block().warps[me() / 32]; }

inline void switch_to(Fiber& from, Fiber& to) {
    if (_setjmp(from.jump) != 0) return;
    if (to.begun) _longjmp(to.jump, 1);
    to.begun = true;
    setcontext(&to.context);
}

// Hands over to the next fiber that can run.
inline void yield() {
    Block& b = block();
    const int from = b.current;
    for (int k = 1; k <= b.threads; ++k) {
        const int to = (from + k * b.stride) % b.threads;
        Fiber& fiber = b.fibers[to];
        if (fiber.done || (fiber.waits_for && *fiber.waits_for == fiber.since)) continue;
        if (to == from) return;
        b.current = to;
        switch_to(b.fibers[from], fiber);
        return;
    }
    bool all_done = true;
    for (const Fiber& fiber : b.fibers) all_done = all_done && fiber.done;
    if (!all_done) fail("threads wait for each other for ever: a barrier or warp-wide instruction not all reach");
    setcontext(&b.home);
}

inline void wait_to_leave(const int64_t& step, int64_t since) {
    Fiber& fiber = block().fibers[me()];
    fiber.waits_for = &step;
    fiber.since = since;
    while (step == since) yield();
    fiber.waits_for = nullptr;
}

// What lane `lane` left in the warp's last exchange; stays for one more exchange.
template <typename T>
T& left_by(int64_t step, int lane) {
    return *reinterpret_cast<T*>(my_warp().slots[step & 1][lane]);
}

// All lanes leave `mine`; the last to come does `finish(step)` for all of them. Returns the step.
template <typename T, typename Finish>
int64_t exchange(Op op, const T& mine, const Finish& finish) {
    static_assert(sizeof(T) <= 64);
    Warp& warp = my_warp();
    const int64_t step = warp.step;
    if (warp.arrived == 0) warp.op = op;
    if (warp.op != op) fail("lanes of a warp meet in different instructions");
    left_by<T>(step, me() % 32) = mine;
    if (++warp.arrived == 32) {
        finish(step);
        warp.arrived = 0;
        ++warp.step;
    } else {
        wait_to_leave(warp.step, step);
    }
    return step;
}

inline void check_range(uint32_t address, int bytes) {
    if (address + bytes > block().shared.size()) fail("shared memory beyond its size");
}

inline bool unordered(int64_t block_step, int64_t warp_step, int thread) {
    const bool same_warp = thread / 32 == me() / 32;
    return block_step == block().step && thread != me() && !(same_warp && warp_step != my_warp().syncs);
}

inline void will_write(Granule& g) {
    if (g.in_flight >= 0) fail("write to shared memory into which a cp.async is in flight");
    if (unordered(g.write_block_step, g.write_warp_step, g.writer)) fail("two threads write the same shared memory");
    for (int reader : {g.reader, g.other_reader})
        if (reader >= 0 && unordered(g.read_block_step, g.read_warp_step, reader))
            fail("write to shared memory that another thread may still read");
}

inline void has_written(Granule& g) {
    g.written = true;
    g.writer = me();
    g.write_block_step = block().step;
    g.write_warp_step = my_warp().syncs;
}

inline void note_write(uint32_t address, int bytes) {
    check_range(address, bytes);
    for (uint32_t i = address / 4; i < (address + bytes) / 4; ++i) {
        will_write(block().granules[i]);
        has_written(block().granules[i]);
    }
}

inline void note_read(uint32_t address, int bytes) {
    check_range(address, bytes);
    for (uint32_t i = address / 4; i < (address + bytes) / 4; ++i) {
        Granule& g = block().granules[i];
        if (!g.written) fail("read of shared memory never written");
        if (g.in_flight >= 0) fail("read of shared memory into which a cp.async is in flight");
        if (unordered(g.write_block_step, g.write_warp_step, g.writer))
            fail("read of shared memory that another thread wrote with no barrier between");
        const bool fresh = g.read_block_step != block().step || g.read_warp_step != my_warp().syncs;
        if (fresh && g.read_block_step != block().step) g.other_reader = -1;
        if (g.reader >= 0 && g.read_block_step == block().step && g.reader / 32 != me() / 32) g.other_reader = g.reader;
        g.reader = me();
        g.read_block_step = block().step;
        g.read_warp_step = my_warp().syncs;
    }
}

// Lanes 8i .. 8i + 7 (16 bytes each) or all 32 (4 bytes) go at once: each must find its own banks.
inline void count_conflicts(int64_t step, int first_lane, int count, int bytes) {
    bool taken[32] = {};
    for (int i = 0; i < count; ++i) {
        const uint32_t bank = left_by<uint32_t>(step, first_lane + i) / 4 % 32;
        for (uint32_t b = bank; b < bank + bytes / 4; ++b) {
            if (taken[b]) ++block().bank_conflicts;
            taken[b] = true;
        }
    }
}

inline void trampoline() {
    Block& b = block();
    b.body();
    b.fibers[b.current].done = true;
    if (!b.pending[b.current].empty()) fail("a thread ends with a cp.async in flight");
    yield();
}

inline void run_block(Index index, Index grid, int threads, size_t shared, const std::function<void()>& body) {
    Block& b = block();
    b.threads = threads;
    b.arrived = 0;
    b.step = 0;
    b.block = index;
    b.grid = grid;
    b.body = body;
    b.fibers.resize(threads);
    b.warps.assign(threads / 32, Warp{});
    b.pending.assign(threads, {});
    b.shared.assign(shared, 0xff);
    b.granules.assign(shared / 4, Granule{});
    for (int t = 0; t < threads; ++t) {
        Fiber& fiber = b.fibers[t];
        fiber.stack.resize(128 * 1024);
        fiber.begun = fiber.done = false;
        fiber.waits_for = nullptr;
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = fiber.stack.size();
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, trampoline, 0);
    }
    b.current = 0;
    b.fibers[0].begun = true;
    swapcontext(&b.home, &b.fibers[0].context);
}

}  // namespace sky4::emulated
