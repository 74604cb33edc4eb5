// The gradient of x from what a sweep wrote for each edge: the sum over the edges of a row of x, in their order.
#pragma once

#include "lanes.cuh"

namespace eqk {

template <class T>
struct Parts {
    const T* part;  // an edge's gradient of x, columns of each segment components first
    T* dx;
    const Index *ptr, *order;  // the edges of each row of x; null where that is the edge itself
};

/// A segment of x, and the first column of each part of its gradient.
template <int START, int MUL, int D, bool MUL_IR, int... FIRST>
struct Summed {
    template <class T>
    static EQK_DEVICE void sum(const Parts<T>& in, Index row, Index width, Index dim, int thread, int threads) {
        const Index first = in.ptr ? in.ptr[row] : row, last = in.ptr ? in.ptr[row + 1] : row + 1;
        // The parts begin at multiples of four and their rows have room for whole ones.
        for (int c = 4 * thread; c < MUL * D; c += 4 * threads) {
            T total[4] = {};
            for (Index t = first; t < last; ++t) {
                const T* part = in.part + (in.ptr ? in.order[t] : t) * width + c;
                (add(part + FIRST, total), ...);
            }
#pragma unroll
            for (int n = 0; n < 4; ++n)
                if (c + n < MUL * D) in.dx[row * dim + START + column(c + n)] = total[n];
        }
    }

   private:
    static EQK_DEVICE int column(int c) { return MUL_IR ? c % MUL * D + c / MUL : c; }

    template <class T>
    static EQK_DEVICE void add(const T* from, T* total) {
        const Pack<T, 4> pack = *reinterpret_cast<const Pack<T, 4>*>(from);
#pragma unroll
        for (int n = 0; n < 4; ++n) total[n] += pack.value[n];
    }
};

}  // namespace eqk
