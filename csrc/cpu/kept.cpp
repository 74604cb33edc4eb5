#include "kept.hpp"

#include <cstdlib>
#include <map>
#include <mutex>
#include <new>

#include "pages.hpp"

#if defined(__linux__)
#include <unistd.h>
#endif

namespace eqk {

namespace {

constexpr int64_t PAGE = int64_t(2) << 20;  // blocks are whole huge pages

int64_t most_kept() {
#if defined(__linux__)
    static const int64_t most = int64_t(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE) / 4;
    return most;
#else
    return int64_t(256) << 20;
#endif
}

struct Kept {
    std::mutex lock;
    std::multimap<int64_t, void*> blocks;  // by size
    int64_t bytes = 0;
};

// Never destroyed: tensors may outlive static objects.
Kept& kept() {
    static Kept* const all = new Kept;
    return *all;
}

}  // namespace

KeptBlock::KeptBlock(int64_t bytes) : data_(nullptr), asked_(bytes), size_((bytes + PAGE - 1) / PAGE * PAGE) {
    Kept& k = kept();
    {
        const std::lock_guard<std::mutex> guard(k.lock);
        const auto found = k.blocks.lower_bound(size_);
        if (found != k.blocks.end() && found->first <= size_ + size_ / 4) {
            size_ = found->first;
            data_ = found->second;
            k.bytes -= size_;
            k.blocks.erase(found);
            return;
        }
    }
    data_ = std::aligned_alloc(PAGE, static_cast<size_t>(size_));
    if (!data_) {
        release_kept();
        data_ = std::aligned_alloc(PAGE, static_cast<size_t>(size_));
    }
    if (!data_) throw std::bad_alloc();
    advise_huge(data_, size_);
}

KeptBlock::~KeptBlock() {
    Kept& k = kept();
#if defined(__linux__) && defined(MADV_FREE)
    madvise(data_, static_cast<size_t>(size_), MADV_FREE);
#endif
    const std::lock_guard<std::mutex> guard(k.lock);
    if (k.bytes + size_ > most_kept()) {
        std::free(data_);
        return;
    }
    k.blocks.emplace(size_, data_);
    k.bytes += size_;
}

int64_t release_kept() {
    Kept& k = kept();
    const std::lock_guard<std::mutex> guard(k.lock);
    for (const auto& [size, data] : k.blocks) std::free(data);
    k.blocks.clear();
    const int64_t bytes = k.bytes;
    k.bytes = 0;
    return bytes;
}

}  // namespace eqk
