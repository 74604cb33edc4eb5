// Weights from rows of a table: of an edge, w = sum over r of b_r times row knot + OFFSET_r. The table lies in the
// caches: a path reads its columns of the rows when it needs them, and no earlier. Gradients of b are of the lane's
// channels alone, as those of y. The gradient of the table is summed by `rows`, knot by knot.
#pragma once

#include "lanes.cuh"

namespace eqk {

/// The rows of `WIDTH` weights that an edge reads; none where weights lie a row an edge.
template <int WIDTH, int... OFFSET>
struct Table {
    static constexpr int ROWS = sizeof...(OFFSET), SIZE = ROWS ? ROWS : 1;

    /// The weights of a path, MUL from column START on, of each row: one address, and a constant for each row.
    template <int START, int MUL, int V, class S>
    static EQK_DEVICE void load(const S* table, Index knot, int u, Pack<S, V>* row) {
        constexpr Index offset[] = {OFFSET...};
        const S* from = Segment<START, MUL, 1, V, false>::source(table, knot * WIDTH, u);
#pragma unroll
        for (int r = 0; r < ROWS; ++r)
            row[r] = *reinterpret_cast<const Pack<S, V>*>(from + (START + offset[r] * WIDTH));
    }

    /// w_v = sum over r of b_r row_rv
    template <int V, class S, class T>
    static EQK_DEVICE void combine(const T* b, const Pack<S, V>* row, T* w) {
#pragma unroll
        for (int v = 0; v < V; ++v) {
            w[v] = b[0] * T(row[0].value[v]);
#pragma unroll
            for (int r = 1; r < ROWS; ++r) w[v] += b[r] * T(row[r].value[v]);
        }
    }

    /// db_r += sum over v of dw_v row_rv
    template <int V, class S, class T>
    static EQK_DEVICE void add_gradient(const T* dw, const Pack<S, V>* row, T* db) {
#pragma unroll
        for (int n = 0; n < ROWS * V; ++n) db[n / V] += dw[n % V] * T(row[n / V].value[n % V]);
    }
};

/// What the gradient of a table is summed of: that of the weights by edge, and factors.
template <class T, class S>
struct Rows {
    const S *dw, *b;
    T* sums;                   // for each knot and row, `columns` from u0 on
    const Index *ptr, *order;  // the edges of each knot
    Index u0, columns, width;
};

/// For knot blockIdx.x, the sums over its edges of b_r dw, in their order; a thread has a column.
template <int ROWS, class T, class S>
EQK_DEVICE void rows(const Rows<T, S>& in) {
    const Index knot = blockIdx.x, u = Index(blockIdx.y) * WARP + threadIdx.x;
    if (u >= in.columns || in.u0 + u >= in.width) return;
    T sum[ROWS] = {};
#pragma unroll 4
    for (Index t = in.ptr[knot]; t < in.ptr[knot + 1]; ++t) {
        const Index e = in.order[t];
        const T f = T(read_once(in.dw + e * in.width + in.u0 + u));
#pragma unroll
        for (int r = 0; r < ROWS; ++r) sum[r] += T(in.b[e * ROWS + r]) * f;
    }
#pragma unroll
    for (int r = 0; r < ROWS; ++r) in.sums[(knot * ROWS + r) * in.columns + u] = sum[r];
}

}  // namespace eqk
