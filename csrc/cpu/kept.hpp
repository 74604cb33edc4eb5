// Memory that outlives its use: large results and scratch find pages where earlier ones have been, instead of page
// faults.
//
// Of large blocks that nobody holds, 256 MB stay as they are: to give pages back and take them again costs each thread
// a flush of its address translations. The pages of further ones are the system's to take (MADV_FREE); until it does, a
// block is as good as new memory. At most a quarter of the machine's memory is kept so, and 64 MB of smaller blocks;
// large ones push out smaller ones.
#pragma once

#include <cstdint>

namespace eqk {

// At least `bytes` bytes, aligned to a cache line, not written; `bytes` becomes what `give_memory` is to be told.
// Throws std::bad_alloc.
void* take_memory(int64_t& bytes);
void give_memory(void* data, int64_t bytes) noexcept;

// Gives back to the system what nobody holds; how many bytes that was.
int64_t release_kept();

// A result.
class KeptBlock {
   public:
    explicit KeptBlock(int64_t bytes) : asked_(bytes), size_(bytes), data_(take_memory(size_)) {}
    ~KeptBlock() { give_memory(data_, size_); }
    KeptBlock(const KeptBlock&) = delete;
    void* data() const { return data_; }
    int64_t bytes() const { return asked_; }

   private:
    int64_t asked_, size_;
    void* data_;
};

}  // namespace eqk
