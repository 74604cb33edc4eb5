// The gradient of x from what a sweep wrote for each edge: the sum over the edges of a row of x, in their order.
#pragma once

#include "device.cuh"

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
        for (int c = thread; c < MUL * D; c += threads) {
            T total = T(0);
            for (Index t = first; t < last; ++t) {
                const T* part = in.part + (in.ptr ? in.order[t] : t) * width + c;
                ((total += part[FIRST]), ...);
            }
            in.dx[row * dim + START + (MUL_IR ? c % MUL * D + c / MUL : c)] = total;
        }
    }
};

}  // namespace eqk
