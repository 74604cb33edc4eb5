// The walk over the edges of a row. A warp on its own computes one unit (paths that share registers) for 32 V of its
// channels: it keeps the row's sums in registers (`held`), writes them once, waits for no other warp and shares
// nothing. While it computes an edge, the operands of those ahead are on their way.
//
// What is emitted for a program (`equikern/backends/cuda/emit.py`): F, its constants, and a struct for each path and
// each unit.
#pragma once

#include "path.cuh"
#include "table.cuh"

namespace eqk {

/// What a sweep reads and writes, contiguous rows; null where the form does not.
template <class F>
struct Operands {
    const typename F::Real *x, *y, *w, *g, *hx, *hy, *hw, *b, *hb;
    typename F::RealX* dx;
    typename F::RealY* dy;
    typename F::RealW* dw;
    typename F::Real* z;
    typename F::RealY* db;
    const Index* index;        // the row of x (or of g, for a sweep over rows of x) of each edge
    const Index* knot;         // its first row of the table w, where weights come from one
    const Index *ptr, *order;  // order[ptr[n]..ptr[n + 1]) are the edges of row n
    Index edges, others;       // others: rows that `index` may name
    Index knots, rows;         // knots: rows that `knot` may name
};

/// An edge, the row of the other operand and the first row of the table (of fewer than 2^31 rows), -1 where these are
/// not there.
struct Edge {
    Index number, other;
    int knot;
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
            if constexpr (F::Table::ROWS > 0) {
                const Index row = in.knot[mine.number];
                mine.knot = row >= 0 && row < in.knots ? int(row) : -1;
            }
        }
        const Index number = F::BY_EDGE ? first + t : __shfl_sync(ALL, mine.number, t % WARP);
        return {number, F::INDEXED ? __shfl_sync(ALL, mine.other, t % WARP) : number,
                F::Table::ROWS > 0 ? __shfl_sync(ALL, mine.knot, t % WARP) : 0};
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
EQK_DEVICE void compute(const Operands<F>& in, Edge edge, typename Unit::Reads& reads, int task, int u, int lane,
                        typename F::T* held) {
    Unit::missing(edge, reads);
    const bool lost = edge.knot < 0;
    typename F::T dy[F::BY_CHANNEL ? 1 : F::YDIM] = {}, db[F::Table::SIZE];
    fill(db, lost ? not_a_number<typename F::T>() : typename F::T(0));
    Unit::edge(in, reads, edge.number, lost ? 0 : edge.knot, u, held, dy, db);
    const Index part = edge.number * F::TASKS + task;
    if constexpr (F::Y && !F::BY_CHANNEL) store_sums<F::YDIM>(dy, Unit::inside(u), lane, in.dy + part * F::YDIM);
    if constexpr (F::B) store_sums<F::Table::ROWS>(db, Unit::inside(u), lane, in.db + part * F::Table::ROWS);
}

/// What is read for the edges ahead waits in registers.
template <class F, class Unit>
EQK_DEVICE void walk_registers(const Operands<F>& in, Index row, int task, int u, int lane, typename F::T* held) {
    constexpr int AHEAD = F::AHEAD;
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
                compute<F, Unit>(in, now.edge, now.reads, task, u, lane, held);
            }
}

/// It waits in the memory of the block, each lane's where no other lane looks: nothing is synchronised.
template <class F, class Unit>
EQK_DEVICE void walk_stages(const Operands<F>& in, Index row, int task, int u, int lane, typename F::T* held,
                            typename F::Real* stages) {
    Edges<F> ahead(in, row), edges(in, row);
    const auto fetch = [&](int t) {
        if (t < ahead.count) {
            const Edge edge = ahead.at(in, t, lane);
            Unit::fetch(in, edge.number, edge.other, u, lane, stages + t % F::STAGES * Unit::STAGE);
        }
        mark_copies();
    };
#pragma unroll
    for (int t = 0; t < F::STAGES - 1; ++t) fetch(t);
#pragma unroll 1
    for (int t = 0; t < edges.count; ++t) {
        fetch(t + F::STAGES - 1);
        await_copies<F::STAGES - 1>();
        typename Unit::Reads reads;
        Unit::take(stages + t % F::STAGES * Unit::STAGE, lane, reads);
        compute<F, Unit>(in, edges.at(in, t, lane), reads, task, u, lane, held);
    }
}

template <class F, class Unit>
EQK_DEVICE void walk(const Operands<F>& in, Index row, int task, int u, int lane, typename F::Real* stages) {
    typename F::T held[Unit::HELD] = {};
    Unit::begin(in, row, u, held);
    if constexpr (F::STAGES > 0)
        walk_stages<F, Unit>(in, row, task, u, lane, held, stages);
    else
        walk_registers<F, Unit>(in, row, task, u, lane, held);
    Unit::end(in, row, u, held);
}

/// The units of a form: TASKS warps for each of them in turn, for every row. No recursion: the compiler copies a unit
/// into every function on the way to the kernel.
template <class... Unit>
struct Units {
    /// Numbers that an edge of any of them takes in the memory of the block.
    static EQK_DEVICE constexpr int stage() {
        int most = 0;
        ((most = Unit::STAGE > most ? Unit::STAGE : most), ...);
        return most;
    }

    template <class F>
    static EQK_DEVICE void sweep(const Operands<F>& in) {
        constexpr int SIZE = F::STAGES * stage();  // of a warp
        alignas(16) EQK_SHARED char memory[F::WARPS * SIZE * sizeof(typename F::Real) + 16];
        const int warp = F::WARPS == 1 ? 0 : __shfl_sync(ALL, int(threadIdx.x / WARP), 0);
        auto* stages = reinterpret_cast<typename F::Real*>(memory) + warp * SIZE;
        const Index item = Index(blockIdx.x) * F::WARPS + warp, row = item / F::TASKS;
        const int task = int(item % F::TASKS), lane = threadIdx.x % WARP;
        // The warp's task and how many there are, counted from a unit's first: the last unit needs no test.
        int of = task, left = F::TASKS;
        if (row < in.rows)
            ((left > Unit::TASKS && of >= Unit::TASKS
                  ? (of -= Unit::TASKS, left -= Unit::TASKS, false)
                  : (walk<F, Unit>(in, row, task, (of * WARP + lane) * Unit::V, lane, stages), true)) ||
             ...);
    }
};

}  // namespace eqk
