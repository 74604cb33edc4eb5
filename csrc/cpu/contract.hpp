// The channelwise contraction F = sum C w x y z (modes that keep the channel), its first and second derivatives.
#pragma once

#include <cstdint>

#include "../program/tables.hpp"

namespace eqk {

constexpr int kMostRows = 8;  // of a table, that an edge may read

// Operands and results; a null pointer is an operand that is zero or not read, or a result nobody asked for.
// Rows: x and dx by x_index (null: the edge itself), z and g by receiver, y and dy by edge, w and dw by edge, or one
// row (`shared_w`), or a table's (`window` > 0): the weights of an edge are then sum_c b[c] w[knot + offsets[c]],
// c < window, formed in cache, with b, hb, db by edge.
// With tangents (hx, hy, hw, hb; `second`), z, dx, dy, dw, db are those of the form's derivative along them.
template <class T>
struct ContractArgs {
    int64_t edges, x_rows, z_rows;
    const int64_t *x_index, *z_ptr, *z_order;  // z_ptr null: receiver = edge; z_order null: edges are sorted already
    const int64_t *knot, *offsets;
    int64_t w_rows, window;
    bool shared_w, second;
    double fixed;  // the weight of unweighted paths: 1, or 0 where the form was derived along w
    const T *x, *y, *w, *g, *hx, *hy, *hw, *b, *hb;
    T *z, *dx, *dy, *dw, *db;
    int threads;
};

struct ContractKernels {
    int64_t vector_bytes;
    void (*f32)(const Lowered&, const ContractArgs<float>&);
    void (*f64)(const Lowered&, const ContractArgs<double>&);
    double (*peak_f32)();  // multiply-adds on registers, operations a second of one thread
    double (*peak_f64)();
};

}  // namespace eqk
