// Lanes are edges: a block of N edges is transposed into vectors, computed, and transposed back.
#include "harmonics.hpp"
#include "harmonics_tiles.inl"
#include "vector.hpp"

namespace eqk {
namespace EQK_TARGET {
namespace harmonics {
namespace {

template <typename T>
inline const T* coefficients(const HarmonicsTable& table);
template <>
inline const float* coefficients<float>(const HarmonicsTable& table) {
    return table.coefficient_float;
}
template <>
inline const double* coefficients<double>(const HarmonicsTable& table) {
    return table.coefficient;
}

template <typename V>
inline V dot(const V* a, const V* b) {
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

template <typename T>
constexpr T smallest_normal = sizeof(T) == 4 ? static_cast<T>(0x1p-126) : static_cast<T>(0x1p-1022);

// v becomes v/|v| and the result is 1/|v|; both are zero for a zero (or subnormal) vector. Scaled by the largest
// component first, so that no square over- or underflows. NaN stays NaN.
template <typename T>
inline Vec<T> to_unit(Vec<T>* v) {
    using V = Vec<T>;
    V scale = v[0] < 0 ? -v[0] : v[0];
    for (int a = 1; a < 3; ++a) {
        const V size = v[a] < 0 ? -v[a] : v[a];
        scale = size > scale ? size : scale;
    }
    const auto zero = scale < smallest_normal<T>;
    const V inverse_scale = zero ? V{} : 1 / scale;
    for (int a = 0; a < 3; ++a) v[a] *= inverse_scale;
    Packed<T> root;
    root.vector() = dot(v, v);
    for (T& x : root.lane) x = sizeof(T) == 4 ? __builtin_sqrtf(x) : __builtin_sqrt(x);
    const V inverse = zero ? V{} : 1 / root.vector();
    for (int a = 0; a < 3; ++a) v[a] *= inverse;
    return inverse * inverse_scale;
}

// d[a] = dY_j/dv_a, given the components y of the degree below; `t` walks the terms.
template <typename T>
EQK_INLINE void derivatives(const HarmonicsTable& table, const Vec<T>* y, int j, Vec<T>* d) {
    const T* coefficient = coefficients<T>(table);
    for (int a = 0; a < 3; ++a) {
        Vec<T> sum{};
        for (int32_t t = table.offset[3 * j + a]; t < table.offset[3 * j + a + 1]; ++t)
            sum += coefficient[t] * y[table.source[t]];
        d[a] = sum;
    }
}

template <typename S, typename T>
void value_block(const HarmonicsTable& table, const HarmonicsArrays<S>& at, int64_t edge, int rows) {
    alignas(EQK_VECTOR_BYTES) Vec<T> y[kMaxComponents];
    Vec<T> v[3], d[3];
    load_vector<S, T>(at.vec + 3 * edge, rows, v);
    if (table.normalize) to_unit<T>(v);
    y[0] = Vec<T>{} + static_cast<T>(table.constant);
    for (int l = 1; l <= table.lmax; ++l) {
        const T inverse = T(1) / l;
        const Vec<T> scaled[3] = {v[0] * inverse, v[1] * inverse, v[2] * inverse};
        for (int j = l * l; j < (l + 1) * (l + 1); ++j) {
            derivatives<T>(table, y, j, d);
            y[j] = dot(scaled, d);
        }
    }
    store_columns<S, T>(table, y, rows, at.out + table.dim * edge);
}

// With u = v/|v|: dG/dv = (g - u (u . g)) / |v|, g the polynomial's gradient at u.
template <typename S, typename T>
void backward_block(const HarmonicsTable& table, const HarmonicsArrays<S>& at, int64_t edge, int rows) {
    alignas(EQK_VECTOR_BYTES) Vec<T> y[kMaxComponents], z[kMaxComponents];
    Vec<T> v[3], d[3], g[3] = {}, inverse_length{};
    load_vector<S, T>(at.vec + 3 * edge, rows, v);
    load_columns<S, T>(table, at.z + table.dim * edge, rows, z);
    if (table.normalize) inverse_length = to_unit<T>(v);
    y[0] = Vec<T>{} + static_cast<T>(table.constant);
    for (int l = 1; l <= table.lmax; ++l) {
        const T inverse = T(1) / l;
        const Vec<T> scaled[3] = {v[0] * inverse, v[1] * inverse, v[2] * inverse};
        for (int j = l * l; j < (l + 1) * (l + 1); ++j) {
            derivatives<T>(table, y, j, d);
            y[j] = dot(scaled, d);
            for (int a = 0; table.used[l] && a < 3; ++a) g[a] += z[j] * d[a];
        }
    }
    if (table.normalize) {
        const Vec<T> radial = dot(v, g);
        for (int a = 0; a < 3; ++a) g[a] = (g[a] - v[a] * radial) * inverse_length;
    }
    store_vector<S, T>(g, rows, at.dvec + 3 * edge);
}

// curvature = H h' (h' = (h - u (u . h)) / |v|) becomes the derivative of h . (g - u (u . g)) / |v| with respect to v.
template <typename T>
inline void project_curvature(const Vec<T>* u, const Vec<T>* h, const Vec<T>* g, Vec<T> inverse_length,
                              Vec<T>* curvature) {
    const Vec<T> uh = dot(u, h), ug = dot(u, g), tangential = dot(h, g) - uh * ug;
    for (int a = 0; a < 3; ++a) curvature[a] -= inverse_length * (h[a] * ug + uh * g[a]);
    const Vec<T> radial = dot(u, curvature);
    for (int a = 0; a < 3; ++a)
        curvature[a] = inverse_length * (curvature[a] - u[a] * (radial + inverse_length * tangential));
}

// w = dY/dv . h is dz; the Hessian is the same table applied to w.
template <typename S, typename T>
void double_backward_block(const HarmonicsTable& table, const HarmonicsArrays<S>& at, int64_t edge, int rows) {
    alignas(EQK_VECTOR_BYTES) Vec<T> y[kMaxComponents], w[kMaxComponents], z[kMaxComponents];
    Vec<T> v[3], h[3], along[3], d[3], g[3] = {}, curvature[3] = {}, inverse_length{};
    load_vector<S, T>(at.vec + 3 * edge, rows, v);
    load_vector<S, T>(at.h + 3 * edge, rows, h);
    if (at.dvec) load_columns<S, T>(table, at.z + table.dim * edge, rows, z);
    for (int a = 0; a < 3; ++a) along[a] = h[a];
    if (table.normalize) {
        inverse_length = to_unit<T>(v);
        const Vec<T> radial = dot(v, h);
        for (int a = 0; a < 3; ++a) along[a] = (h[a] - v[a] * radial) * inverse_length;
    }
    y[0] = Vec<T>{} + static_cast<T>(table.constant);
    w[0] = Vec<T>{};
    for (int l = 1; l <= table.lmax; ++l) {
        const T inverse = T(1) / l;
        const Vec<T> scaled[3] = {v[0] * inverse, v[1] * inverse, v[2] * inverse};
        const bool wanted = at.dvec && table.used[l];
        for (int j = l * l; j < (l + 1) * (l + 1); ++j) {
            derivatives<T>(table, y, j, d);
            y[j] = dot(scaled, d);
            w[j] = dot(along, d);
            if (!wanted) continue;
            for (int a = 0; a < 3; ++a) g[a] += z[j] * d[a];
            derivatives<T>(table, w, j, d);
            for (int a = 0; a < 3; ++a) curvature[a] += z[j] * d[a];
        }
    }
    if (at.dvec) {
        if (table.normalize) project_curvature<T>(v, h, g, inverse_length, curvature);
        store_vector<S, T>(curvature, rows, at.dvec + 3 * edge);
    }
    if (at.dz) store_columns<S, T>(table, w, rows, at.dz + table.dim * edge);
}

template <typename S>
using Block = void (*)(const HarmonicsTable&, const HarmonicsArrays<S>&, int64_t, int);

template <typename S, Block<S> block, int N>
void for_blocks(const HarmonicsTable& table, const HarmonicsArrays<S>& arrays, int64_t edges, int threads) {
    constexpr int64_t kEdgesPerThread = 1024;
    const int64_t blocks = (edges + N - 1) / N;
    const int64_t useful = edges / kEdgesPerThread + 1;
    const int team = static_cast<int>(useful < threads ? useful : threads);
    if (team <= 1) {
        for (int64_t b = 0; b < blocks; ++b)
            block(table, arrays, b * N, static_cast<int>(edges - b * N < N ? edges - b * N : N));
        return;
    }
#pragma omp parallel for num_threads(team) schedule(static)
    for (int64_t b = 0; b < blocks; ++b)
        block(table, arrays, b * N, static_cast<int>(edges - b * N < N ? edges - b * N : N));
}

// Rounding grows with the degree: past this one, float32 is computed in double.
constexpr int kMaxSingleDegree = 6;

template <typename S, Block<S> narrow, Block<S> wide>
void run(const HarmonicsTable& table, const HarmonicsArrays<S>& arrays, int64_t edges, int threads) {
    if (table.lmax <= kMaxSingleDegree)
        for_blocks<S, narrow, lanes<S>>(table, arrays, edges, threads);
    else
        for_blocks<S, wide, lanes<double>>(table, arrays, edges, threads);
}

template <typename S>
constexpr HarmonicsOrders<S> orders{
    run<S, value_block<S, S>, value_block<S, double>>,
    run<S, backward_block<S, S>, backward_block<S, double>>,
    run<S, double_backward_block<S, S>, double_backward_block<S, double>>,
};

}  // namespace
}  // namespace harmonics

extern const HarmonicsKernels harmonics_kernels;
const HarmonicsKernels harmonics_kernels{harmonics::orders<float>, harmonics::orders<double>};

}  // namespace EQK_TARGET
}  // namespace eqk
