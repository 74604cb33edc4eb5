// Lanes are edges: a block of N edges is transposed into vectors, computed, and transposed back.
#include <omp.h>

#include "harmonics.hpp"
#include "harmonics_steps.inl"
#include "harmonics_tiles.inl"
#include "vector.hpp"

namespace eqk {
namespace EQK_TARGET {
namespace harmonics {
namespace {

template <typename S, typename T, class Degree, class Rows>
EQK_INLINE void value_block(const HarmonicsTable& table, const HarmonicsArrays<S>& at, int64_t edge, Rows rows) {
    const Degree lmax = degree<Degree>(table);
    Vec<T> v[3], y[kMaxComponents];
    load_vector<S, T>(at.vec + 3 * edge, rows, v);
    if (table.normalize) to_unit<T>(v);
    Solid<T, Degree> solid(table, lmax, v);
    each(Const<0>{}, lmax, [&](auto m) EQK_INLINED {
        each(m, lmax, [&](auto l) EQK_INLINED {
            y[l * l + l + m] = solid.p[pair(l, m)] * solid.c[m];
            if (m > 0) y[l * l + l - m] = solid.p[pair(l, m)] * solid.s[m];
        });
    });
    store_columns<S, T>(table, lmax, y, rows, at.out + table.dim * edge);
}

// With u = v/|v|: dG/dv = (g - u (u . g)) / |v|, g the polynomial's gradient at u.
template <typename S, typename T, class Degree, class Rows>
EQK_INLINE void backward_block(const HarmonicsTable& table, const HarmonicsArrays<S>& at, int64_t edge, Rows rows) {
    const Degree lmax = degree<Degree>(table);
    Vec<T> v[3], g[3], z[kMaxComponents], inverse_length{};
    load_vector<S, T>(at.vec + 3 * edge, rows, v);
    load_columns<S, T>(table, lmax, at.z + table.dim * edge, rows, z);
    if (table.normalize) inverse_length = to_unit<T>(v);
    Solid<T, Degree> solid(table, lmax, v);
    gradient<T>(solid, lmax, v, z, g);
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

// dz = dY/dv . h', the change of the harmonics along h'; H h', the change of their gradient.
template <typename S, typename T, class Degree, class Rows>
EQK_INLINE void double_backward_block(const HarmonicsTable& table, const HarmonicsArrays<S>& at, int64_t edge,
                                      Rows rows) {
    const Degree lmax = degree<Degree>(table);
    Vec<T> v[3], h[3], along[3], g[3], curvature[3], inverse_length{};
    Vec<T> z[kMaxComponents];
    load_vector<S, T>(at.vec + 3 * edge, rows, v);
    load_vector<S, T>(at.h + 3 * edge, rows, h);
    for (int a = 0; a < 3; ++a) along[a] = h[a];
    if (table.normalize) {
        inverse_length = to_unit<T>(v);
        const Vec<T> radial = dot(v, h);
        for (int a = 0; a < 3; ++a) along[a] = (h[a] - v[a] * radial) * inverse_length;
    }
    Solid<T, Degree> solid(table, lmax, v);
    Change<T, Degree> change(solid, lmax, v, along);
    if (at.dvec) {
        load_columns<S, T>(table, lmax, at.z + table.dim * edge, rows, z);
        gradient_change<T>(solid, change, lmax, v, along, z, g, curvature);
        if (table.normalize) project_curvature<T>(v, h, g, inverse_length, curvature);
        store_vector<S, T>(curvature, rows, at.dvec + 3 * edge);
    }
    if (!at.dz) return;
    each(Const<0>{}, lmax, [&](auto m) EQK_INLINED {
        each(m, lmax, [&](auto l) EQK_INLINED {
            const Vec<T> p = solid.p[pair(l, m)], dp = change.p[pair(l, m)];
            z[l * l + l + m] = m > 0 ? dp * solid.c[m] + p * change.c[m] : dp;
            if (m > 0) z[l * l + l - m] = dp * solid.s[m] + p * change.s[m];
        });
    });
    store_columns<S, T>(table, lmax, z, rows, at.dz + table.dim * edge);
}

// The blocks of n edges that each thread takes: its blocks [first, last), the function called with these.
template <class F>
void for_blocks(int64_t blocks, int64_t n, int threads, F&& run) {
    constexpr int64_t kEdgesPerThread = 1024;
    const int64_t useful = blocks * n / kEdgesPerThread + 1;
    const int team = static_cast<int>(useful < threads ? useful : threads);
    if (team <= 1) return run(int64_t(0), blocks);
#pragma omp parallel num_threads(team)
    {
        const int64_t thread = omp_get_thread_num(), count = omp_get_num_threads();
        run(blocks * thread / count, blocks * (thread + 1) / count);
    }
}

// Edges in blocks of as many as there are lanes. The last block overlaps the one before (of the same thread) rather
// than being cut short; fewer edges than lanes are a block of their own.
#define EQK_ORDER(order)                                                                                            \
    template <typename S, typename T, class Degree>                                                                 \
    void order##_range(const HarmonicsTable& table, const HarmonicsArrays<S>& arrays, int64_t edges, int64_t first, \
                       int64_t last) {                                                                              \
        constexpr int n = lanes<T>;                                                                                 \
        for (int64_t b = first; b < last; ++b)                                                                      \
            order##_block<S, T, Degree>(table, arrays, b * n < edges - n ? b * n : edges - n, Const<n>{});          \
    }                                                                                                               \
    template <typename S>                                                                                           \
    void order(const HarmonicsTable& table, const HarmonicsArrays<S>& arrays, int64_t edges, int threads) {         \
        using Range = void (*)(const HarmonicsTable&, const HarmonicsArrays<S>&, int64_t, int64_t, int64_t);        \
        constexpr Range unrolled[] = {order##_range<S, S, Const<0>>, order##_range<S, S, Const<1>>,                 \
                                      order##_range<S, S, Const<2>>, order##_range<S, S, Const<3>>,                 \
                                      order##_range<S, S, Const<4>>, order##_range<S, S, Const<5>>,                 \
                                      order##_range<S, S, Const<6>>};                                               \
        const bool single = table.lmax <= kMaxSingleDegree;                                                         \
        const int64_t n = single ? lanes<S> : lanes<double>;                                                        \
        const Range range = single ? unrolled[table.lmax] : order##_range<S, double, int>;                          \
        if (edges >= n)                                                                                             \
            for_blocks((edges + n - 1) / n, n, threads,                                                             \
                       [&](int64_t first, int64_t last) { range(table, arrays, edges, first, last); });             \
        else if (edges > 0 && single)                                                                               \
            order##_block<S, S, int>(table, arrays, 0, static_cast<int>(edges));                                    \
        else if (edges > 0)                                                                                         \
            order##_block<S, double, int>(table, arrays, 0, static_cast<int>(edges));                               \
    }

// Rounding grows with the degree: past this one, float32 is computed in double.
constexpr int kMaxSingleDegree = 6;

EQK_ORDER(value)
EQK_ORDER(backward)
EQK_ORDER(double_backward)

template <typename S>
constexpr HarmonicsOrders<S> orders{value<S>, backward<S>, double_backward<S>};

}  // namespace
}  // namespace harmonics

extern const HarmonicsKernels harmonics_kernels;
const HarmonicsKernels harmonics_kernels{harmonics::orders<float>, harmonics::orders<double>};

}  // namespace EQK_TARGET
}  // namespace eqk
