// Scratch memory, aligned to a cache line, uninitialised.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#include "pages.hpp"

namespace eqk {

template <class T>
class Buffer {
   public:
    Buffer() = default;
    explicit Buffer(int64_t count) : size_(count) {
        const size_t bytes = (static_cast<size_t>(count) * sizeof(T) + 127) / 64 * 64;
        data_.reset(static_cast<T*>(std::aligned_alloc(64, bytes)));
        if (!data_) throw std::bad_alloc();
        advise_huge(data_.get(), static_cast<int64_t>(bytes));
    }
    T* data() const { return data_.get(); }
    int64_t size() const { return size_; }
    T& operator[](int64_t i) const { return data_.get()[i]; }

   private:
    struct Free {
        void operator()(void* p) const { std::free(p); }
    };
    std::unique_ptr<T[], Free> data_;
    int64_t size_ = 0;
};

}  // namespace eqk
