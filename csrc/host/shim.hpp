// Compiles the kernels of csrc/cuda as C++17 and runs them on the CPU, one warp after the other: for tests.
//
// Every lane is a fiber; an exchange of the warp is where it yields. A lane that an exchange names and that is
// elsewhere stops the process with a message.
#pragma once

#include <cmath>
#include <cstring>

#define EQK_VISIBLE extern "C" __attribute__((visibility("default")))
#define EQK_DEVICE inline
#define EQK_TABLE static const
#define EQK_SHARED static thread_local
#define EQK_BOUNDED_KERNEL(name, threads, blocks, Argument)                                                  \
    static void name(const Argument& argument);                                                              \
    EQK_VISIBLE void name##_on_host(unsigned x, unsigned y, const Argument* argument) {                      \
        eqk_host::launch(                                                                                    \
            x, y, threads, [](const void* given) { name(*static_cast<const Argument*>(given)); }, argument); \
    }                                                                                                        \
    static void name(const Argument& argument)

struct dim3 {
    unsigned x, y, z;
};
struct uint2 {
    unsigned x, y;
};
struct uint4 {
    unsigned x, y, z, w;
};

// Seen from the kernels' libraries, which hide all else.
#pragma GCC visibility push(default)
namespace eqk_host {
extern thread_local dim3 thread, block;
void launch(unsigned x, unsigned y, unsigned threads, void (*body)(const void*), const void* argument);
/// The bits that a lane of the warp gives; all of its lanes take part.
unsigned long long exchange(unsigned long long bits, int lane);
}  // namespace eqk_host
#pragma GCC visibility pop

using std::fabs;
using std::fmax;
using std::sqrt;

#define threadIdx eqk_host::thread
#define blockIdx eqk_host::block

template <class To, class From>
To bits_as(From value) {
    To bits{};
    std::memcpy(&bits, &value, sizeof(To) < sizeof(From) ? sizeof(To) : sizeof(From));
    return bits;
}
inline unsigned __float_as_uint(float x) { return bits_as<unsigned>(x); }
inline float __uint_as_float(unsigned bits) { return bits_as<float>(bits); }
inline float float_of_half(unsigned short bits) { return float(bits_as<_Float16>(bits)); }
inline unsigned short half_of_float(float x) { return bits_as<unsigned short>(_Float16(x)); }

template <class T>
T __shfl_sync(unsigned, T value, int lane) {
    return bits_as<T>(eqk_host::exchange(bits_as<unsigned long long>(value), lane));
}
template <class T>
T __shfl_xor_sync(unsigned all, T value, int bits) {
    return __shfl_sync(all, value, int(threadIdx.x % 32) ^ bits);
}
template <class T>
T __ldcs(const T* from) {
    return *from;
}
template <class T>
void __stcs(T* to, T value) {
    *to = value;
}
inline long long opaque(long long n) { return n; }
template <int BYTES>
void start_copy(void* to, const void* from) {
    std::memcpy(to, from, BYTES);
}
inline void mark_copies() {}
template <int LATER>
void await_copies() {}
