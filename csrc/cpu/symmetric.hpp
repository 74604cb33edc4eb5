// Symmetric contractions: kernels for one instruction set. F(x, w, z) = sum over nodes n, channels c and terms t of
// w[s(n), t, c] z[n, k_t, c] v_t(x[n, :, c]), where the values v are made of the components of x by sums of products.
#pragma once

#include <cstdint>

namespace eqk {

// value[out] += value[a] * value[b]; products are sorted so that a and b are complete before they are read.
struct SymmetricProduct {
    int32_t out, a, b;
};

// Row `row` of w times column z.
struct SymmetricTerm {
    int32_t z, row;
};

// The terms [first_term, last_term) share a value: that of number `value`, or, where this is -1, the sum of the
// products [first_product, last_product), which nothing else reads.
struct SymmetricMonomial {
    int32_t value, first_product, last_product, first_term, last_term;
};

// Plain pointers only: the kernels' files are compiled for instruction sets that the rest of the library may not use.
struct SymmetricTable {
    int64_t channels;
    int64_t reads;                    // arrays x_S; values 0 ... reads * components - 1 are their components
    int64_t components, x_dim;        // of one channel of x; columns of an array of x
    int64_t columns, z_dim;           // the same of z
    int64_t values, rows;             // values that are kept; rows of w
    int64_t inner, monomials;         // counts: products that make kept values, monomials
    const int64_t *x_first, *x_step;  // (components) the column of channel 0, the step to the next channel
    const int64_t *z_first, *z_step;  // (columns)
    const SymmetricProduct* product;  // the inner ones, then those of monomials, whose `out` is not read
    const SymmetricMonomial* monomial;
    const SymmetricTerm* term;
};

// Row-major: w, dw (species, rows, channels); z, dz (nodes, z_dim); x, dx `reads` arrays (nodes, x_dim), x[S] null
// where it is zero. dw, dz, dx are null where not wanted; dw is added to, and of w and z those that are not read may be
// null. `order` holds the nodes by species, node_species[order[n]] ascending.
template <typename T>
struct SymmetricArrays {
    int64_t nodes;
    const int64_t *order, *species;
    const T *w, *z;
    const T* const* x;
    T *dw, *dz;
    T* const* dx;
};

template <typename T>
using SymmetricKernel = void (*)(const SymmetricTable&, const SymmetricArrays<T>&, int threads);

struct SymmetricKernels {
    SymmetricKernel<float> single_precision;
    SymmetricKernel<double> double_precision;
};

}  // namespace eqk
