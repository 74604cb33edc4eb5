// The gradient of x from what a sweep wrote for each edge: the sum over the edges of a row of x, in their order.
#pragma once

#include "lanes.cuh"

namespace eqk {

template <class T, class S>
struct Parts {
    const T* part;  // an edge's gradient of x, columns of each segment components first
    S* dx;
    const Index *ptr, *order;  // the edges of each row of x; null where that is the edge itself
};

constexpr int FOUR = 4;  // columns of a thread; parts begin at multiples, and their rows have room for whole ones

/// A segment of x, and the first column of each part of its gradient.
template <int START, int MUL, int D, bool MUL_IR, int... FIRST>
struct Summed {
    static constexpr int PIECES = (MUL * D + FOUR - 1) / FOUR;

    template <Index WIDTH, class T, class S>
    static EQK_DEVICE void sum(const Parts<T, S>& in, int piece, Index first, Index last, S* dx) {
        const int c = FOUR * piece;
        T total[FOUR] = {};
#pragma unroll 4
        for (Index t = first; t < last; ++t) {
            const T* part = in.part + (in.ptr ? in.order[t] : t) * WIDTH + c;
            (add(part + FIRST, total), ...);
        }
#pragma unroll
        for (int n = 0; n < FOUR; ++n)
            if (c + n < MUL * D) dx[START + column(c + n)] = S(total[n]);
    }

   private:
    static EQK_DEVICE int column(int c) { return MUL_IR ? c % MUL * D + c / MUL : c; }

    template <class T>
    static EQK_DEVICE void add(const T* from, T* total) {
        constexpr int AT_ONCE = 16 / sizeof(T);
#pragma unroll
        for (int p = 0; p < FOUR; p += AT_ONCE) {
            const auto pack = read_once(reinterpret_cast<const Pack<T, AT_ONCE>*>(from + p));
#pragma unroll
            for (int n = 0; n < AT_ONCE; ++n) total[p + n] += pack.value[n];
        }
    }
};

/// The pieces of several segments, one after the other.
template <class First, class... Rest>
struct Concatenated {
    static constexpr int PIECES = (First::PIECES + ... + Rest::PIECES);

    template <Index WIDTH, class T, class S>
    static EQK_DEVICE void sum(const Parts<T, S>& in, int piece, Index first, Index last, S* dx) {
        if constexpr (sizeof...(Rest) > 0)
            if (piece >= First::PIECES)
                return Concatenated<Rest...>::template sum<WIDTH>(in, piece - First::PIECES, first, last, dx);
        First::template sum<WIDTH>(in, piece, first, last, dx);
    }
};

/// Row blockIdx.x of x.
template <class Segments, Index WIDTH, Index DIM, int THREADS, class T, class S>
EQK_DEVICE void sum(const Parts<T, S>& in) {
    const Index row = blockIdx.x;
    const Index first = in.ptr ? in.ptr[row] : row, last = in.ptr ? in.ptr[row + 1] : row + 1;
    for (int piece = threadIdx.x; piece < Segments::PIECES; piece += THREADS)
        Segments::template sum<WIDTH>(in, piece, first, last, in.dx + row * DIM);
}

}  // namespace eqk
