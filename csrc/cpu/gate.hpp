// Gates: activated scalars f(s), and irreps t times activated gates, f(s) t; with their first two derivatives.
#pragma once

#include <cstdint>
#include <vector>

namespace eqk {

enum class Activation { silu, tanh, sigmoid, shifted_softplus, abs, identity };

// scale f of columns [start, start + mul) of x. With dim > 0 they multiply (mul, dim) at column `gated`. The result
// goes to column `out`.
struct GatePart {
    int64_t start, mul;
    Activation act;
    double scale;
    int64_t gated, dim, out;
};

struct Gate {
    int64_t columns, width;  // of x, of the output
    std::vector<GatePart> parts;
};

// x and h (rows, columns), z (rows, width). Of F = z . output: out the output, or, without h, dx = dF/dx; with h, the
// derivatives dx and dz of h . dF/dx. Results are null where nobody asks.
template <class T>
struct GateArgs {
    int64_t rows;
    const T *x, *z, *h;
    T *out, *dx, *dz;
    int threads;
};

struct GateKernels {
    void (*f32)(const Gate&, const GateArgs<float>&);
    void (*f64)(const Gate&, const GateArgs<double>&);
};

}  // namespace eqk
