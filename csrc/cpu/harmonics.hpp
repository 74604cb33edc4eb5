// The spherical harmonics: kernels for one instruction set.
//
// Solid harmonics Y_l of degree l are homogeneous polynomials whose derivatives are combinations of degree l-1:
//   dY_j/dv_a = sum_t coefficient_t Y_source(t),   t in [offset(3 j + a), offset(3 j + a + 1)),   j = l^2 + m,
// and Euler's relation gives the value back: l Y_j = sum_a v_a dY_j/dv_a. One sparse table therefore holds the value,
// the gradient and the Hessian of any degree.
#pragma once

#include <cstdint>

namespace eqk {

constexpr int kMaxDegree = 12;
constexpr int kMaxComponents = (kMaxDegree + 1) * (kMaxDegree + 1);

// Plain pointers only: the kernels' files are compiled for instruction sets that the rest of the library may not use.
struct HarmonicsTable {
    int lmax;
    bool normalize;          // the input is divided by its length first; a zero vector gives zero and zero derivatives
    double constant;         // Y_0
    int64_t dim;             // columns of the output
    const int32_t* columns;  // (dim,) the component j in each column
    const bool* used;        // (lmax + 1,) whether a degree has columns
    const int32_t* offset;   // (3 (lmax + 1)^2 + 1,)
    const int32_t* source;
    const double* coefficient;
    const float* coefficient_float;
};

// Row-major arrays: vec, h, dvec (edges, 3); z, dz, out (edges, dim). G(v, z) = sum_c z_c Y_c(v).
template <typename T>
struct HarmonicsArrays {
    const T* vec;
    const T* z;
    const T* h;
    T* out;
    T* dvec;
    T* dz;
};

template <typename T>
using HarmonicsKernel = void (*)(const HarmonicsTable&, const HarmonicsArrays<T>&, int64_t edges, int threads);

template <typename T>
struct HarmonicsOrders {
    HarmonicsKernel<T> value;            // out = Y(vec)
    HarmonicsKernel<T> backward;         // dvec = dG/dv
    HarmonicsKernel<T> double_backward;  // dvec, dz = derivatives of h . dG/dv; either may be null
};

struct HarmonicsKernels {
    HarmonicsOrders<float> single_precision;
    HarmonicsOrders<double> double_precision;
};

}  // namespace eqk
