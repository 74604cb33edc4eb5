// The vocabulary of the kernels. NVRTC and nvcc compile them for a device; with EQK_HOST the shim compiles them for the
// host. No header of torch or of the standard library is needed.
#pragma once

#ifdef EQK_HOST
#include "shim.hpp"
#else
#define EQK_DEVICE __device__ __forceinline__
#define EQK_TABLE __device__ const
#define EQK_SHARED(T, name, size) __shared__ alignas(32) T name[size]
#define EQK_KERNEL(name, threads, Argument) \
    extern "C" __global__ void __launch_bounds__(threads, 1) name(const __grid_constant__ Argument argument)
#endif

namespace eqk {

using Index = long long;

constexpr int WARP = 32;

EQK_DEVICE constexpr int power_of_two(int n) { return n <= 1 ? 1 : 2 * power_of_two((n + 1) / 2); }

template <class T>
EQK_DEVICE T not_a_number() {
    return T(0) / T(0);
}

}  // namespace eqk
