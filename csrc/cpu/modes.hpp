// Products in any connection mode, row by row: F = sum C w x y z over runs of channels, and its first derivatives;
// weights of a row that mix channels; rows between the two orders of columns.
#pragma once

#include <cstdint>
#include <vector>

#include "../program/coupling.hpp"

namespace eqk {

// Rows of all operands lie one after the other. Null: not read, or not asked for. w and dw have one row if shared.
template <class T>
struct CoupleArgs {
    int64_t rows;
    bool shared_w, add;  // add to z, dx and dy instead of storing
    const T *x, *y, *w, *g;
    T *z, *dx, *dy, *dw;
    int threads;
};

// One path of `mix`: z[k, c3] += sum_c a[k, c] w[c, c3] for its (channels, out) weights.
struct Mixed {
    int64_t a, w;  // first channel in a, first weight
    int64_t channels;
};

// a (rows, dim, width), w (rows, w_dim), z and g (rows, dim, out).
template <class T>
struct MixArgs {
    int64_t rows, dim, width, out, w_dim;
    const T *a, *w, *g;
    T *z, *da, *dw;
    int threads;
};

// One segment of rows: `from` (stride from_stride) to `to`; split: mul_ir to ir_mul, else the reverse; `turn` false:
// columns keep their order. add: added to what is there.
template <class T>
struct TurnArgs {
    int64_t rows, mul, dim;
    bool turn, split, add;
    const T* from;
    int64_t from_stride;
    T* to;
    int64_t to_stride;
    int threads;
};

// Columns [from, from + count) of a are rows [to, to + count) of a node's matrix.
struct ColumnRun {
    int64_t from, count, to;
};

// a (edges, a_dim), h (edges, width); m and g (last - first, rows, width) of the nodes [first, last), whose edges are
// order[ptr[n] .. ptr[n + 1]). m is stored (in the rows of the runs), da and dh are added to.
template <class T>
struct OuterArgs {
    int64_t first, last, a_dim, width, rows;
    const int64_t *ptr, *order;
    const T *a, *h, *g;
    T *m, *da, *dh;
    int threads;
};

template <class T>
struct ModeOf {
    void (*couple)(const Coupling&, const CoupleArgs<T>&);
    void (*mix)(const std::vector<Mixed>&, const MixArgs<T>&);
    void (*turn)(const TurnArgs<T>&);
    void (*outer)(const std::vector<ColumnRun>&, const OuterArgs<T>&);
};

struct ModeKernels {
    ModeOf<float> f32;
    ModeOf<double> f64;
};

}  // namespace eqk
