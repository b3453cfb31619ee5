// Barriers, copies and warps as state machines: runs lists of steps in random order and finds deadlocks and buffers
// overwritten under a reader.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <random>
#include <vector>

#define REQUIRE(condition)                                                               \
    do {                                                                                 \
        if (!(condition)) {                                                              \
            std::fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition); \
            std::exit(1);                                                                \
        }                                                                                \
    } while (0)

namespace sky4::tests {

// An mbarrier: a phase ends when all arrivals are in and no bytes (here: copies) are outstanding.
struct SimulatedBarrier {
    int expected = 0, arrived = 0, copies = 0;
    int64_t phases = 0;

    void settle() {
        if (arrived == expected && copies == 0) arrived = 0, ++phases;
        REQUIRE(arrived <= expected);
    }
    bool passed(uint32_t parity) const { return (phases & 1) != static_cast<int64_t>(parity); }
};

struct Step {
    enum Kind { wait, arrive, copy, read_begin, read_end, meet, meet_arrive } kind;
    int barrier = -1;     // wait, arrive, copy (completes on it), meet
    uint32_t parity = 0;  // wait
    int copies = 0;       // arrive: that many copies are to complete in this phase
    int buffer = -1;      // copy, read
    int content = -1;
};

class Simulation {
public:
    int barrier(int arrivals) {
        barriers_.push_back({arrivals});
        return static_cast<int>(barriers_.size()) - 1;
    }
    int buffer() {
        buffers_.push_back({});
        return static_cast<int>(buffers_.size()) - 1;
    }
    std::vector<Step>& agent() {
        agents_.emplace_back();
        return agents_.back();
    }

    void run(std::mt19937& random) {
        std::vector<size_t> at(agents_.size(), 0);
        std::vector<int64_t> met(agents_.size(), -1);  // the phase of a meeting that the agent is waiting out
        for (;;) {
            std::vector<int> able;
            bool done = true;
            for (size_t a = 0; a < agents_.size(); ++a) {
                if (at[a] == agents_[a].size()) continue;
                done = false;
                if (can(agents_[a][at[a]], met[a])) able.push_back(static_cast<int>(a));
            }
            if (done && flying_.empty()) return;
            const size_t choices = able.size() + flying_.size();
            REQUIRE(choices > 0);  // otherwise a deadlock
            const size_t choice = random() % choices;
            if (choice >= able.size()) {
                land(choice - able.size());
                continue;
            }
            const int a = able[choice];
            const Step& step = agents_[a][at[a]];
            if (step.kind == Step::meet && met[a] < 0) {
                met[a] = barriers_[step.barrier].phases;
                ++barriers_[step.barrier].arrived;
                barriers_[step.barrier].settle();
            } else {
                met[a] = -1;
                take(step);
                ++at[a];
            }
        }
    }

private:
    struct Buffer {
        int content = -1;
        int readers = 0;
    };

    bool can(const Step& step, int64_t met) const {
        if (step.kind == Step::wait) return barriers_[step.barrier].passed(step.parity);
        if (step.kind == Step::meet) return met < 0 || barriers_[step.barrier].phases > met;
        return true;
    }

    void take(const Step& step) {
        switch (step.kind) {
            case Step::arrive:
                barriers_[step.barrier].copies += step.copies;
                [[fallthrough]];
            case Step::meet_arrive:
                ++barriers_[step.barrier].arrived;
                barriers_[step.barrier].settle();
                break;
            case Step::copy:
                REQUIRE(buffers_[step.buffer].readers == 0);
                buffers_[step.buffer].content = -1;
                flying_.push_back(step);
                break;
            case Step::read_begin:
                REQUIRE(buffers_[step.buffer].content == step.content);
                ++buffers_[step.buffer].readers;
                break;
            case Step::read_end:
                REQUIRE(buffers_[step.buffer].content == step.content);
                --buffers_[step.buffer].readers;
                break;
            case Step::wait:
            case Step::meet:
                break;
        }
    }

    void land(size_t index) {
        const Step step = flying_[index];
        flying_.erase(flying_.begin() + static_cast<int64_t>(index));
        buffers_[step.buffer].content = step.content;
        --barriers_[step.barrier].copies;
        barriers_[step.barrier].settle();
    }

    std::vector<SimulatedBarrier> barriers_;
    std::vector<Buffer> buffers_;
    std::deque<std::vector<Step>> agents_;
    std::vector<Step> flying_;
};

// The steps of one agent, in the words of the kernels.
struct Script {
    std::vector<Step>& steps;

    void wait(int barrier, uint32_t parity) { steps.push_back({Step::wait, barrier, parity}); }
    void arrive(int barrier, int copies = 0) { steps.push_back({Step::arrive, barrier, 0, copies}); }
    void copy(int buffer, int content, int barrier) { steps.push_back({Step::copy, barrier, 0, 0, buffer, content}); }
    void begin(int buffer, int content) { steps.push_back({Step::read_begin, -1, 0, 0, buffer, content}); }
    void end(int buffer, int content) { steps.push_back({Step::read_end, -1, 0, 0, buffer, content}); }
    void meet(int barrier) { steps.push_back({Step::meet, barrier}); }
    void pass(int barrier) { steps.push_back({Step::meet_arrive, barrier}); }
};

}  // namespace sky4::tests
