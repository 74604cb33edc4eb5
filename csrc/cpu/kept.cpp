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

constexpr int64_t PAGE = int64_t(2) << 20;    // large blocks are whole huge pages
constexpr int64_t LARGE = 2 * PAGE;           // from here on
constexpr int64_t SMALL = int64_t(64) << 10;  // below, the C library keeps memory itself
constexpr int64_t MOST_SMALL = int64_t(64) << 20;
constexpr int64_t HELD = int64_t(256) << 20;  // of large blocks: stays here, the system may take what is beyond

int64_t most_large() {
#if defined(__linux__)
    static const int64_t most = int64_t(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE) / 4;
    return most;
#else
    return int64_t(256) << 20;
#endif
}

int64_t round_up(int64_t bytes, int64_t to) { return (bytes + to - 1) / to * to; }

// A large block is the system's own mapping: the C library would hand out small pages that were there before.
void* from_system(int64_t size) {
    if (size < LARGE) return std::aligned_alloc(64, static_cast<size_t>(size));
#if defined(__linux__)
    const size_t room = static_cast<size_t>(size + PAGE);
    void* const all = mmap(nullptr, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED) return nullptr;
    char* const begin = static_cast<char*>(all);
    const size_t before = (PAGE - reinterpret_cast<uintptr_t>(begin) % PAGE) % PAGE;
    if (before) munmap(begin, before);
    munmap(begin + before + size, PAGE - before);
    advise_huge(begin + before, size);
    return begin + before;
#else
    return std::aligned_alloc(PAGE, static_cast<size_t>(size));
#endif
}

void to_system(void* data, int64_t size) {
#if defined(__linux__)
    if (size >= LARGE) {
        munmap(data, static_cast<size_t>(size));
        return;
    }
#endif
    std::free(data);
}

// Blocks that nobody holds, by size. Where another thread looks at them already, or did when this process was forked,
// memory comes from the system.
class Pool {
   public:
    void* take(int64_t& size) {
        const std::unique_lock<std::mutex> guard(lock_, std::try_to_lock);
        if (!guard) return nullptr;
        const auto found = blocks_.lower_bound(size);
        if (found == blocks_.end() || found->first > size + size / 4) return nullptr;
        void* const data = found->second;
        size = found->first;
        bytes_ -= size;
        blocks_.erase(found);
        return data;
    }

    // Whether the block is kept: at most `most` bytes are, and smaller blocks make room for a larger one.
    bool keep(void* data, int64_t size, int64_t most) {
        const std::unique_lock<std::mutex> guard(lock_, std::try_to_lock);
        if (!guard) return false;
        for (auto least = blocks_.begin(); bytes_ + size > most && least != blocks_.end() && least->first < size;) {
            to_system(least->second, least->first);
            bytes_ -= least->first;
            least = blocks_.erase(least);
        }
        if (bytes_ + size > most) return false;
#if defined(__linux__) && defined(MADV_FREE)
        if (size >= LARGE && bytes_ + size > HELD) madvise(data, static_cast<size_t>(size), MADV_FREE);
#endif
        blocks_.emplace(size, data);
        bytes_ += size;
        return true;
    }

    int64_t release() {
        const std::unique_lock<std::mutex> guard(lock_, std::try_to_lock);
        if (!guard) return 0;
        for (const auto& [size, data] : blocks_) to_system(data, size);
        blocks_.clear();
        const int64_t bytes = bytes_;
        bytes_ = 0;
        return bytes;
    }

   private:
    std::mutex lock_;
    std::multimap<int64_t, void*> blocks_;
    int64_t bytes_ = 0;
};

// Never destroyed: tensors may outlive static objects.
Pool& large() {
    static Pool* const pool = new Pool;
    return *pool;
}
Pool& small() {
    static Pool* const pool = new Pool;
    return *pool;
}

}  // namespace

void* take_memory(int64_t& bytes) {
    const int64_t unit = bytes >= LARGE ? PAGE : bytes >= SMALL ? SMALL : 64;
    int64_t size = round_up(bytes > 0 ? bytes : 1, unit);
    void* data = size >= LARGE ? large().take(size) : size >= SMALL ? small().take(size) : nullptr;
    if (!data) {
        data = from_system(size);
        if (!data && release_kept() > 0) data = from_system(size);
        if (!data) throw std::bad_alloc();
    }
    bytes = size;
    return data;
}

void give_memory(void* data, int64_t bytes) noexcept {
    try {
        if (bytes >= LARGE) {
            if (large().keep(data, bytes, most_large())) return;
        } else if (bytes >= SMALL) {
            if (small().keep(data, bytes, MOST_SMALL)) return;
            small().release();  // of sizes that are not asked for any more
        }
    } catch (const std::bad_alloc&) {  // of the pool's own notes
    }
    to_system(data, bytes);
}

int64_t release_kept() { return large().release() + small().release(); }

}  // namespace eqk
