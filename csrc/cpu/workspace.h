// The memory of one call, given back to the next: fresh pages cost more to touch than a small attention takes.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sky4::cpu {

// Pieces are taken first to last: `Workspace w; w.reserve<float>(n); ...; w.open(); float* x = w.take<float>(n); ...`
class Workspace {
public:
    Workspace() = default;
    Workspace(const Workspace&) = delete;
    Workspace& operator=(const Workspace&) = delete;
    ~Workspace();

    template <typename T>
    void reserve(int64_t count) {
        bytes_ += whole_lines(count * static_cast<int64_t>(sizeof(T)));
    }

    void open();  // throws std::bad_alloc

    // Aligned to a cache line (and a vector), contents undefined; in the order and the sizes reserved.
    template <typename T>
    T* take(int64_t count) {
        T* piece = reinterpret_cast<T*>(next_);
        next_ += whole_lines(count * static_cast<int64_t>(sizeof(T)));
        return piece;
    }

    struct Memory {
        size_t bytes;  // behind this header
    };

private:
    static constexpr int64_t kLine = 64;
    static size_t whole_lines(int64_t bytes) { return static_cast<size_t>((bytes + kLine - 1) / kLine * kLine); }

    size_t bytes_ = 0;
    Memory* memory_ = nullptr;
    char* next_ = nullptr;
};

}  // namespace sky4::cpu
