// Memory for large results that outlives them: a new one finds pages where an old one has been, instead of page faults.
//
// Pages of a block that nobody holds are the system's to take (MADV_FREE); until it does, the block is as good as new
// memory. At most a quarter of the machine's memory is kept so.
#pragma once

#include <cstdint>

namespace eqk {

class KeptBlock {
   public:
    explicit KeptBlock(int64_t bytes);  // throws std::bad_alloc
    ~KeptBlock();
    KeptBlock(const KeptBlock&) = delete;
    void* data() const { return data_; }
    int64_t bytes() const { return asked_; }

   private:
    void* data_;
    int64_t asked_, size_;
};

// Gives back what nobody holds; how many bytes that was.
int64_t release_kept();

}  // namespace eqk
