// The rate of fused multiply-adds on registers: what shares of peak are measured against.
#include <chrono>

#include "vector.hpp"

namespace eqk {
namespace EQK_TARGET {

template <class T>
double fma_rounds(int64_t rounds) {
    constexpr int N = 12;
    Vec<T> acc[N], a = Vec<T>{} + T(1.0000001), b = Vec<T>{} + T(1e-7);
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) acc[n] = Vec<T>{} + T(n);
    for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 16
        for (int n = 0; n < N; ++n) {
            acc[n] = acc[n] * a + b;
#if defined(__x86_64__)
            asm volatile("" : "+v"(acc[n]));  // one dependent chain each: nothing is folded
#endif
        }
    }
#pragma GCC unroll 16
    for (int n = 1; n < N; ++n) acc[0] += acc[n];
    return static_cast<double>(sum<T>(acc[0]));
}

// Floating-point operations a second of one thread, best of several short runs (a multiply-add counts two).
template <class T>
double fma_peak() {
    constexpr int64_t rounds = 2000000;
    double best = 0;
    volatile double sink = 0;
    for (int run = 0; run < 7; ++run) {
        const auto start = std::chrono::steady_clock::now();
        sink = sink + fma_rounds<T>(rounds);
        const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        const double rate = 2.0 * rounds * 12 * lanes<T> / seconds;
        best = rate > best ? rate : best;
    }
    return best;
}

}  // namespace EQK_TARGET
}  // namespace eqk
