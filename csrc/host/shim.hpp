// Compiles the kernels of csrc/cuda as C++17 and runs them on the CPU, one block at a time: for tests.
//
// Every thread of a block is a fiber; a barrier or a warp's exchange is where it yields. A barrier that a thread
// misses, or a lane that an exchange names and that is elsewhere, stops the process with a message. A race shows where
// the order of the warps changes a result: `backwards` turns it round.
#pragma once

#include <cmath>

#define EQK_VISIBLE extern "C" __attribute__((visibility("default")))
#define EQK_DEVICE inline
#define EQK_TABLE static const
// One block runs at a time, so its shared memory may be static.
#define EQK_SHARED(T, name, size) alignas(32) static T name[size]
#define EQK_KERNEL(name, threads, Argument)                                                                  \
    static void name(const Argument& argument);                                                              \
    EQK_VISIBLE void name##_on_host(unsigned x, unsigned y, const Argument* argument) {                      \
        eqk_host::launch(                                                                                    \
            x, y, threads, [](const void* given) { name(*static_cast<const Argument*>(given)); }, argument); \
    }                                                                                                        \
    static void name(const Argument& argument)

struct dim3 {
    unsigned x, y, z;
};

// Seen from the kernels' libraries, which hide all else.
#pragma GCC visibility push(default)
namespace eqk_host {
extern thread_local dim3 thread, block;
extern "C" bool backwards;  // the last warp of a block runs first
void launch(unsigned x, unsigned y, unsigned threads, void (*body)(const void*), const void* argument);
void barrier();
/// The value of the lane whose number differs in `bits`; all lanes of the warp take part.
double exchange(double value, int bits);
}  // namespace eqk_host
#pragma GCC visibility pop

using std::fabs;
using std::fmax;
using std::sqrt;

#define threadIdx eqk_host::thread
#define blockIdx eqk_host::block

inline void __syncthreads() { eqk_host::barrier(); }
inline float __shfl_xor_sync(unsigned, float value, int bits) { return float(eqk_host::exchange(value, bits)); }
inline double __shfl_xor_sync(unsigned, double value, int bits) { return eqk_host::exchange(value, bits); }
