// The spherical harmonics: kernels for one instruction set.
//
// About the polar axis y, with s_m = Im (z + i x)^m and c_m = Re (z + i x)^m, the solid harmonics of degree l are
//   Y_(l,m) = P_lm c_m,  Y_(l,-m) = P_lm s_m,  0 <= m <= l,
// where P_lm is a polynomial of y and r^2 (Legendre's, differentiated m times, homogeneous, normalised). Its
// derivatives are such polynomials of the degree below,
//   dP_lm/dy = polar P_(l-1,m),  dP_lm/dx = -ring x P_(l-1,m+1),  dP_lm/dz = -ring z P_(l-1,m+1),
// and Euler's relation for homogeneous polynomials gives it back, with next = polar / (l - m), last = ring / (l - m):
//   P_lm = next y P_(l-1,m) - last (x^2 + z^2) P_(l-1,m+1),  P_ll = next.
// (The usual recursion from l-1 and l-2 loses a digit near the poles at l = 6.)
#pragma once

#include <cstdint>

namespace eqk {

constexpr int kMaxDegree = 12;
constexpr int kMaxComponents = (kMaxDegree + 1) * (kMaxDegree + 1);
constexpr int kMaxPairs = (kMaxDegree + 1) * (kMaxDegree + 2) / 2;

// Of the pair (l, m), 0 <= m <= l.
constexpr int pair(int l, int m) { return l * (l + 1) / 2 + m; }

template <typename T>
struct HarmonicsPair {
    T next, last, polar, ring;
};

// Plain pointers only: the kernels' files are compiled for instruction sets that the rest of the library may not use.
struct HarmonicsTable {
    int lmax;
    bool normalize;          // the input is divided by its length first; a zero vector gives zero and zero derivatives
    bool plain;              // the columns are the components 0, 1, ..., (lmax + 1)^2 - 1
    int64_t dim;             // columns of the output
    const int32_t* columns;  // (dim,) the component j = l^2 + l + m in each column
    const HarmonicsPair<double>* pairs;  // (pair(lmax + 1, 0),)
    const HarmonicsPair<float>* pairs_float;
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
