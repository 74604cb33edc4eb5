// The walk over the edges of a row. A warp on its own computes one unit (paths that share registers) for 32 V of its
// channels: it keeps the row's sums in registers (`held`), writes them once, waits for no other warp and shares
// nothing. While it computes an edge, the operands of those ahead are on their way.
//
// What is emitted for a program (`equikern/backends/cuda/emit.py`): F, its constants, and a struct for each path and
// each unit.
#pragma once

#include "path.cuh"

namespace eqk {

/// What a sweep reads and writes, contiguous rows; null where the form does not.
template <class F>
struct Operands {
    const typename F::Real *x, *y, *w, *g, *hx, *hy, *hw;
    typename F::RealX* dx;
    typename F::RealY* dy;
    typename F::RealW* dw;
    typename F::Real* z;
    const Index* index;        // the row of x (or of g, for a sweep over rows of x) of each edge
    const Index *ptr, *order;  // order[ptr[n]..ptr[n + 1]) are the edges of row n
    Index edges, others;       // others: rows that `index` may name
    Index rows;
};

/// An edge, and the row of the other operand, -1 where that is not there.
struct Edge {
    Index number, other;
};

/// The edges of a row, asked for one after the other: lane n has the n-th of 32.
template <class F>
struct Edges {
    Index first;
    int count;
    Edge mine;

    EQK_DEVICE Edges(const Operands<F>& in, Index row) {
        first = F::BY_EDGE ? row * F::CHUNK : in.ptr[row];
        const Index own = first + F::CHUNK, last = F::BY_EDGE ? (own < in.edges ? own : in.edges) : in.ptr[row + 1];
        count = __shfl_sync(ALL, int(last - first), 0);
    }

    EQK_DEVICE Edge at(const Operands<F>& in, int t, int lane) {
        if (t % WARP == 0 && t + lane < count) {
            mine.number = F::BY_EDGE ? first + t + lane : in.order[first + t + lane];
            if constexpr (F::INDEXED) {
                const Index row = in.index[mine.number];
                mine.other = row >= 0 && row < in.others ? row : -1;
            }
        }
        const Index number = F::BY_EDGE ? first + t : __shfl_sync(ALL, mine.number, t % WARP);
        return {number, F::INDEXED ? __shfl_sync(ALL, mine.other, t % WARP) : number};
    }
};

/// What is read for an edge, before it is needed.
template <class Unit>
struct Ahead {
    Edge edge;
    typename Unit::Reads reads;

    template <class F>
    EQK_DEVICE void load(const Operands<F>& in, Edge of, int u, int lane) {
        edge = of;
        Unit::read(in, edge.number, edge.other, u, lane, reads);
    }
};

template <class F, class Unit>
EQK_DEVICE void walk(const Operands<F>& in, Index row, int task, int u, int lane) {
    constexpr int AHEAD = F::AHEAD;
    typename F::T held[Unit::HELD] = {};
    Unit::begin(in, row, u, held);
    Edges<F> edges(in, row);
    Ahead<Unit> ring[AHEAD ? AHEAD : 1];
#pragma unroll
    for (int n = 0; n < AHEAD; ++n)
        if (n < edges.count) ring[n].load(in, edges.at(in, n, lane), u, lane);
#pragma unroll 1
    for (int t = 0; t < edges.count; t += AHEAD ? AHEAD : 1)
#pragma unroll
        for (int n = 0; n == 0 || n < AHEAD; ++n)
            if (t + n < edges.count) {
                if (!AHEAD) ring[0].load(in, edges.at(in, t, lane), u, lane);
                Ahead<Unit> now = ring[n];
                if (AHEAD && t + n + AHEAD < edges.count) ring[n].load(in, edges.at(in, t + n + AHEAD, lane), u, lane);
                if (now.edge.other < 0) Unit::missing(now.reads);
                typename F::T dy[F::YDIM] = {};
                Unit::edge(in, now.reads, now.edge.number, u, held, dy);
                if constexpr (F::Y)
                    store_sums<F::YDIM>(dy, Unit::inside(u), lane,
                                        in.dy + (now.edge.number * F::TASKS + task) * F::YDIM);
            }
    Unit::end(in, row, u, held);
}

/// The units of a form: TASKS warps for each of them in turn, for every row.
template <class First, class... Rest>
struct Units {
    template <class F>
    static EQK_DEVICE void walk(const Operands<F>& in, Index row, int task, int of_unit, int lane) {
        if constexpr (sizeof...(Rest) > 0)
            if (of_unit >= First::TASKS) return Units<Rest...>::walk(in, row, task, of_unit - First::TASKS, lane);
        eqk::walk<F, First>(in, row, task, (of_unit * WARP + lane) * First::V, lane);
    }
};

template <class F, class Units>
EQK_DEVICE void sweep(const Operands<F>& in) {
    const int warp = F::WARPS == 1 ? 0 : __shfl_sync(ALL, int(threadIdx.x / WARP), 0);
    const Index item = Index(blockIdx.x) * F::WARPS + warp, row = item / F::TASKS;
    const int task = int(item % F::TASKS), lane = threadIdx.x % WARP;
    if (row < in.rows) Units::walk(in, row, task, task, lane);
}

}  // namespace eqk
