// Scratch memory, aligned to a cache line, uninitialised, kept for later calls.
#pragma once

#include <cstdint>
#include <utility>

#include "kept.hpp"

namespace eqk {

template <class T>
class Buffer {
   public:
    Buffer() = default;
    // A line more than asked for: vectors are read past the end.
    explicit Buffer(int64_t count) : size_(count), bytes_(count * int64_t(sizeof(T)) + 64) {
        data_ = static_cast<T*>(take_memory(bytes_));
    }
    Buffer(Buffer&& from) noexcept { *this = std::move(from); }
    Buffer& operator=(Buffer&& from) noexcept {
        std::swap(data_, from.data_), std::swap(size_, from.size_), std::swap(bytes_, from.bytes_);
        return *this;
    }
    ~Buffer() {
        if (data_) give_memory(data_, bytes_);
    }
    T* data() const { return data_; }
    int64_t size() const { return size_; }
    T& operator[](int64_t i) const { return data_[i]; }

   private:
    T* data_ = nullptr;
    int64_t size_ = 0, bytes_ = 0;
};

}  // namespace eqk
