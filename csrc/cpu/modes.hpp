// Products in any connection mode, F = sum C w x y z, sums of them read at other slots, and their first derivatives;
// sums of outer products at nodes; segments of rows between the two orders of columns.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "../program/coupling.hpp"

namespace eqk {

// Summands of F that read the same weights and z: their slots of x and y. `fixed`: unweighted paths take part.
struct Summands {
    int w, z;
    bool fixed;
    std::vector<std::array<int, 2>> xy;
};

// Slots hold rows of x, y, w or z: `kinds` says which, 0 to 3. A slot is given (in), or its derivative is asked for
// (out); null: not. Weights have one row if shared.
template <class T>
struct CoupleArgs {
    int64_t rows;
    bool shared_w;
    std::vector<int> kinds;
    std::vector<const T*> in;
    std::vector<T*> out;
    std::vector<Summands> summands;
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
    void (*turn)(const TurnArgs<T>&);
    void (*outer)(const std::vector<ColumnRun>&, const OuterArgs<T>&);
};

struct ModeKernels {
    ModeOf<float> f32;
    ModeOf<double> f64;
};

}  // namespace eqk
