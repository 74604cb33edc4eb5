// The walk over the edges of a row: one block of threads a row, or several where one has no room for its channels.
//
// A warp computes one unit (paths that share registers) for 32 V channels. The block makes the matrices M of BATCH
// edges together, then every warp goes over the batch. A row's sums stay in registers (`held`) and are written once.
//
// What is emitted for a program (`equikern/backends/cuda/emit.py`): F, constants and tables, and a struct for each
// unit.
#pragma once

#include "path.cuh"

namespace eqk {

/// What a sweep reads and writes, contiguous rows; null where the form does not.
template <class T>
struct Operands {
    const T *x, *y, *w, *g, *hx, *hy, *hw;
    T *dx, *dy, *dw, *z;
    const Index* index;        // the row of x (or of g, for a sweep over rows of x) of each edge
    const Index *ptr, *order;  // order[ptr[n]..ptr[n + 1]) are the edges of row n
    Index edges, others;       // others: rows that `index` may name
};

/// The units of a form, and warps for each of them in turn.
template <class First, class... Rest>
struct Units {
    static constexpr int TASKS = First::TASKS + Units<Rest...>::TASKS;

    /// act(unit, first channel of the lane, its channels) for a task of the row.
    template <class Do>
    static EQK_DEVICE void at(int task, int lane, Do&& act) {
        if (task < First::TASKS)
            act(First{}, (task * WARP + lane) * First::V);
        else
            Units<Rest...>::at(task - First::TASKS, lane, act);
    }
};
template <class Last>
struct Units<Last> {
    static constexpr int TASKS = Last::TASKS;
    template <class Do>
    static EQK_DEVICE void at(int task, int lane, Do&& act) {
        if (task < TASKS) act(Last{}, (task * WARP + lane) * Last::V);
    }
};

/// One nonzero of a form's coefficients: the other end of it, and its value times the path's scale.
template <class T>
struct Cell {
    int at;
    T value;
};

/// Matrices of a batch: m[b * ENTRIES + n] = the sum over the cells of entry n of value times y of edge b.
template <class F, class T>
EQK_DEVICE void make_matrices(const T* y, const Index* edge, int batch, T* m) {
    for (int item = threadIdx.x; item < batch * F::ENTRIES; item += F::THREADS) {
        const T* row = y + edge[item / F::ENTRIES] * F::YDIM;
        const int n = item % F::ENTRIES;
        T sum = T(0);
#pragma unroll 1
        for (int c = F::entry_begins(n); c < F::entry_begins(n + 1); ++c)
            sum += F::of_entry(c).value * row[F::of_entry(c).at];
        m[item] = sum;
    }
}

/// The gradient of y from the sums dM of the block's warps: a part of each edge's row for each block of its row.
template <class F, class T>
EQK_DEVICE void write_dy(const Operands<T>& in, const Index* edge, int batch, const T* moments, T* total) {
    __syncthreads();  // all warps have written their sums, and read the matrices, whose room `total` takes
    for (int item = threadIdx.x; item < batch * F::ENTRIES; item += F::THREADS) {
        const int b = item / F::ENTRIES, n = item % F::ENTRIES;
        T sum = T(0);
#pragma unroll 1
        for (int warp = 0; warp < F::WARPS; ++warp)
            F::Units::at(blockIdx.y * F::WARPS + warp, 0, [&](auto unit, int) {
                const int at = n - unit.FIRST_ENTRY;
                if (at >= 0 && at < unit.ENTRIES) sum += moments[(b * F::WARPS + warp) * F::MOMENTS + at];
            });
        total[item] = sum;
    }
    __syncthreads();
    for (int item = threadIdx.x; item < batch * F::YDIM; item += F::THREADS) {
        const int b = item / F::YDIM, j = item % F::YDIM;
        T sum = T(0);
#pragma unroll 1
        for (int c = F::column_begins(j); c < F::column_begins(j + 1); ++c)
            sum += F::of_column(c).value * total[b * F::ENTRIES + F::of_column(c).at];
        in.dy[(edge[b] * F::BLOCKS + blockIdx.y) * F::YDIM + j] = sum;
    }
}

template <class F, class T>
EQK_DEVICE void sweep(const Operands<T>& in) {
    EQK_SHARED(T, m, F::BATCH * F::ENTRIES);
    EQK_SHARED(T, h, F::HY ? F::BATCH * F::ENTRIES : 1);
    EQK_SHARED(T, moments, F::Y ? F::BATCH * F::WARPS * F::MOMENTS : 1);
    EQK_SHARED(Index, edge, F::BATCH);
    EQK_SHARED(Index, other, F::BATCH);
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, task = blockIdx.y * F::WARPS + warp;
    const Index row = blockIdx.x;
    const Index first = F::BY_EDGE ? row * F::CHUNK : in.ptr[row];
    const Index own = first + F::CHUNK, last = F::BY_EDGE ? (own < in.edges ? own : in.edges) : in.ptr[row + 1];

    T held[F::HELD] = {};
    if constexpr (F::Y)
        for (int n = threadIdx.x; n < F::BATCH * F::WARPS * F::MOMENTS; n += F::THREADS) moments[n] = T(0);
    F::Units::at(task, lane, [&](auto unit, int u) { unit.begin(in, row, u, held); });

#pragma unroll 1
    for (Index t = first; t < last; t += F::BATCH) {
        const int batch = last - t < F::BATCH ? int(last - t) : F::BATCH;
        __syncthreads();  // the batch before is done with
        if (threadIdx.x < batch) {
            const Index e = F::BY_EDGE ? t + threadIdx.x : in.order[t + threadIdx.x];
            const Index s = F::INDEXED ? in.index[e] : e;
            edge[threadIdx.x] = e;
            other[threadIdx.x] = !F::INDEXED || (s >= 0 && s < in.others) ? s : -1;
        }
        __syncthreads();
        if constexpr (F::READS_Y) make_matrices<F>(in.y, edge, batch, m);
        if constexpr (F::HY) make_matrices<F>(in.hy, edge, batch, h);
        __syncthreads();
#pragma unroll 1
        for (int b = 0; b < batch; ++b)
            F::Units::at(task, lane, [&](auto unit, int u) {
                unit.edge(in, m + b * F::ENTRIES, h + (F::HY ? b * F::ENTRIES : 0), edge[b], other[b], u, lane, held,
                          moments + (F::Y ? (b * F::WARPS + warp) * F::MOMENTS : 0));
            });
        if constexpr (F::Y) write_dy<F>(in, edge, batch, moments, m);
    }
    F::Units::at(task, lane, [&](auto unit, int u) { unit.end(in, row, u, held); });
}

/// The row of a tensor, null where there is none.
template <class T>
EQK_DEVICE T* row_of(T* tensor, Index row, Index dim) {
    return row < 0 ? nullptr : tensor + row * dim;
}

}  // namespace eqk
