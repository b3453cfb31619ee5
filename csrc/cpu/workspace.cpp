#include "workspace.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <atomic>
#include <new>

namespace sky4::cpu {
namespace {

constexpr size_t kHeader = 64;      // keeps the pieces aligned
constexpr size_t kKept = 48 << 20;  // more than this goes back to the system after the call
constexpr size_t kHuge = 2 << 20;   // a huge page: one fault instead of 512

std::atomic<Workspace::Memory*> kept{nullptr};

size_t alignment(size_t bytes) { return bytes >= 2 * kHuge ? kHuge : kHeader; }

Workspace::Memory* allocate(size_t bytes) {
    const size_t total = bytes + kHeader;
    void* memory = ::operator new(total, std::align_val_t(alignment(bytes)));
#ifdef __linux__
    if (alignment(bytes) == kHuge) madvise(memory, total / kHuge * kHuge, MADV_HUGEPAGE);  // a wish: may be refused
#endif
    return new (memory) Workspace::Memory{bytes};
}

void release(Workspace::Memory* memory) {
    if (memory != nullptr) ::operator delete(memory, std::align_val_t(alignment(memory->bytes)));
}

}  // namespace

void Workspace::open() {
    memory_ = kept.exchange(nullptr, std::memory_order_acq_rel);
    if (memory_ == nullptr || memory_->bytes < bytes_) {
        release(memory_);
        memory_ = nullptr;
        memory_ = allocate(bytes_);
    }
    next_ = reinterpret_cast<char*>(memory_) + kHeader;
}

Workspace::~Workspace() {
    if (memory_ == nullptr) return;
    if (memory_->bytes <= kKept) memory_ = kept.exchange(memory_, std::memory_order_acq_rel);
    release(memory_);
}

}  // namespace sky4::cpu
