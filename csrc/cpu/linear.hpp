// Linear maps between equal irreps: F = sum over rows and paths of scale x W z, W of the row's kind, and what F gives
// differentiated by one operand.
#pragma once

#include <cstdint>

#include "../program/linear.hpp"

namespace eqk {

// x (rows, x_dim), w (kinds, w_dim), g, operand z, (rows, z_dim); results z, dx, dw. Null: not given, that is zero, or
// not asked for. Rows order[ptr[k] .. ptr[k + 1]) are of kind k; without ptr all are of kind 0.
template <class T>
struct LinearArgs {
    int64_t rows, kinds;
    const int64_t *ptr, *order;
    const T *x, *w, *g;
    T *z, *dx, *dw;
    int threads;
};

struct LinearKernels {
    void (*f32)(const LinearMap&, const LinearArgs<float>&);
    void (*f64)(const LinearMap&, const LinearArgs<double>&);
};

}  // namespace eqk
