// The vocabulary of the kernels. NVRTC and nvcc compile them for a device; with EQK_HOST the shim compiles them for the
// host. No header of torch or of the standard library is needed.
#pragma once

#ifdef EQK_HOST
#include "shim.hpp"
#else
#define EQK_DEVICE __device__ __forceinline__
#define EQK_TABLE __device__ const
#define EQK_SHARED __shared__
/// `blocks`: how many of them a multiprocessor is to have room for, which bounds the registers of a thread.
#define EQK_BOUNDED_KERNEL(name, threads, blocks, Argument) \
    extern "C" __global__ void __launch_bounds__(threads, blocks) name(const __grid_constant__ Argument argument)

EQK_DEVICE float float_of_half(unsigned short bits) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
}
EQK_DEVICE unsigned short half_of_float(float x) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}

/// A number whose origin the compiler does not see: a constant that is added to it stays in loads and stores, where it
/// costs nothing.
EQK_DEVICE long long opaque(long long n) {
    asm("" : "+l"(n));
    return n;
}

/// Starts a copy of 4, 8 or 16 bytes into the memory of the block.
template <int BYTES>
EQK_DEVICE void start_copy(void* to, const void* from) {
    const unsigned at = unsigned(__cvta_generic_to_shared(to));
    if constexpr (BYTES == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at), "l"(from) : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(at), "l"(from), "n"(BYTES) : "memory");
}
/// The copies since the last mark are one batch.
EQK_DEVICE void mark_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Waits for the thread's own copies, but those of the last LATER batches.
template <int LATER>
EQK_DEVICE void await_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(LATER) : "memory");
}
#endif
#define EQK_KERNEL(name, threads, Argument) EQK_BOUNDED_KERNEL(name, threads, 1, Argument)

namespace eqk {

using Index = long long;

constexpr int WARP = 32;
constexpr unsigned ALL = 0xffffffffu;  // the lanes of a warp

EQK_DEVICE constexpr int power_of_two(int n) { return n <= 1 ? 1 : 2 * power_of_two((n + 1) / 2); }

template <class T>
EQK_DEVICE T not_a_number() {
    return T(__uint_as_float(0x7fc00000));  // 0 / 0 would be divided
}

/// Numbers of 16 bits, as rows hold them: computed with as floats, rounded to nearest where they are written.
struct Half {
    unsigned short bits;

    Half() = default;
    EQK_DEVICE explicit Half(float x) : bits(half_of_float(x)) {}
    EQK_DEVICE operator float() const { return float_of_half(bits); }
};
struct BFloat16 {
    unsigned short bits;

    BFloat16() = default;
    EQK_DEVICE explicit BFloat16(float x) {
        const unsigned whole = __float_as_uint(x), odd = whole >> 16 & 1;
        bits = x == x ? (whole + 0x7fff + odd) >> 16 : 0x7fc0;
    }
    EQK_DEVICE operator float() const { return __uint_as_float(unsigned(bits) << 16); }
};

/// What memory moves at once.
template <int BYTES>
struct Word;
template <>
struct Word<2> {
    using Type = unsigned short;
};
template <>
struct Word<4> {
    using Type = unsigned;
};
template <>
struct Word<8> {
    using Type = uint2;
};
template <>
struct Word<16> {
    using Type = uint4;
};

/// What is read or written once: it is the first to leave the caches.
template <class P>
EQK_DEVICE P read_once(const P* from) {
    const auto bits = __ldcs(reinterpret_cast<const typename Word<sizeof(P)>::Type*>(from));
    return reinterpret_cast<const P&>(bits);
}
template <class P>
EQK_DEVICE void write_once(P* to, P value) {
    using Bits = typename Word<sizeof(P)>::Type;
    __stcs(reinterpret_cast<Bits*>(to), reinterpret_cast<const Bits&>(value));
}

/// Copies it into the memory of the block, where it is once `await_copies` returns.
template <class P>
EQK_DEVICE void copy_ahead(P* to, const P* from) {
    if constexpr (sizeof(P) >= 4)
        start_copy<sizeof(P)>(to, from);
    else
        *to = *from;
}

}  // namespace eqk
