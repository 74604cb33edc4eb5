// Spherical harmonics and their first two derivatives, an edge a thread.
//
// csrc/cpu/harmonics.hpp explains the recursions: Y_(l,m) = P_lm c_m, Y_(l,-m) = P_lm s_m about the polar axis y, with
// derivatives dP_lm/dy = polar P_(l-1,m), dP_lm/dx = -ring x P_(l-1,m+1), the same for z. Here they are written once,
// for numbers and for dual numbers: the derivative of the gradient along h is the gradient at v + eps h. What is
// emitted
// (`equikern/backends/cuda/harmonics.py`): F, the degrees and the factors of each pair (l, m).
#pragma once

#include "device.cuh"

namespace eqk {

template <class T>
struct Vectors {
    const T *vec, *z, *h;  // (edges, 3), (edges, DIM), (edges, 3)
    T *y, *dvec, *dz;
    Index edges;
};

template <class T>
struct Pair {
    T next, last, polar, ring;
};

EQK_DEVICE constexpr int pair(int l, int m) { return l * (l + 1) / 2 + m; }

/// v + d eps, eps^2 = 0
template <class T>
struct Dual {
    T v, d;
};
template <class T>
EQK_DEVICE Dual<T> operator+(Dual<T> a, Dual<T> b) {
    return {a.v + b.v, a.d + b.d};
}
template <class T>
EQK_DEVICE Dual<T> operator-(Dual<T> a, Dual<T> b) {
    return {a.v - b.v, a.d - b.d};
}
template <class T>
EQK_DEVICE Dual<T> operator*(Dual<T> a, Dual<T> b) {
    return {a.v * b.v, a.v * b.d + a.d * b.v};
}
template <class T>
EQK_DEVICE Dual<T> operator*(T a, Dual<T> b) {
    return {a * b.v, a * b.d};
}

EQK_DEVICE float value(float x) { return x; }
EQK_DEVICE double value(double x) { return x; }
template <class T>
EQK_DEVICE T value(Dual<T> x) {
    return x.v;
}
template <class T>
EQK_DEVICE T inverse_root(T x) {
    return T(1) / sqrt(x);
}
template <class T>
EQK_DEVICE Dual<T> inverse_root(Dual<T> x) {
    const T root = inverse_root(x.v);
    return {root, -root / (2 * x.v) * x.d};
}
/// A number without a change.
template <class N, class T>
EQK_DEVICE N plain(T x) {
    if constexpr (sizeof(N) == sizeof(T))
        return x;
    else
        return {x, T(0)};
}
template <class N>
EQK_DEVICE N dot(const N* a, const N* b) {
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

/// v becomes v/|v|; the result is 1/|v|. Both are zero for a vector of zeros or subnormal numbers.
template <class F, class N>
EQK_DEVICE N to_unit(N* v) {
    using T = typename F::Real;
    const T size = fmax(fmax(fabs(value(v[0])), fabs(value(v[1]))), fabs(value(v[2])));
    if (size < F::TINY) {
        for (int a = 0; a < 3; ++a) v[a] = plain<N>(T(0));
        return plain<N>(T(0));
    }
    // Scaled by its largest component first, so that no square over- or underflows.
    for (int a = 0; a < 3; ++a) v[a] = plain<N>(T(1) / size) * v[a];
    const N inverse = inverse_root(dot(v, v));
    for (int a = 0; a < 3; ++a) v[a] = inverse * v[a];
    return plain<N>(T(1) / size) * inverse;
}

/// P_lm, c_m and s_m of a vector.
template <class F, class N>
struct Solid {
    using T = typename F::Real;
    N p[pair(F::LMAX + 1, 0)], c[F::LMAX + 1], s[F::LMAX + 1];

    EQK_DEVICE explicit Solid(const N* v) {
        const N ring = v[0] * v[0] + v[2] * v[2];
        c[0] = plain<N>(T(1)), s[0] = plain<N>(T(0));
#pragma unroll
        for (int l = 0; l <= F::LMAX; ++l) {
            if (l > 0) c[l] = c[l - 1] * v[2] - s[l - 1] * v[0], s[l] = s[l - 1] * v[2] + c[l - 1] * v[0];
#pragma unroll
            for (int m = 0; m <= l; ++m) {
                const Pair<T> k = F::pair_of(pair(l, m));
                p[pair(l, m)] = m < l ? k.next * (v[1] * p[pair(l - 1, m)]) : plain<N>(k.next);
                if (m + 1 < l) p[pair(l, m)] = p[pair(l, m)] - k.last * (ring * p[pair(l - 1, m + 1)]);
            }
        }
    }

    /// Y of degree l, component m from -l to l.
    EQK_DEVICE N operator()(int l, int m) const { return m < 0 ? p[pair(l, -m)] * s[-m] : p[pair(l, m)] * c[m]; }

    /// g = d/dv of the sum of z_j Y_j over components j = l^2 + l + m.
    EQK_DEVICE void gradient(const N* v, const T* z, N* g) const {
        N ring = plain<N>(T(0));
        for (int a = 0; a < 3; ++a) g[a] = plain<N>(T(0));
#pragma unroll
        for (int m = 0; m <= F::LMAX; ++m) {
            N plus = plain<N>(T(0)), minus = plus;  // the derivatives by c_m and s_m
#pragma unroll
            for (int l = m; l <= F::LMAX; ++l) {
                const Pair<T> k = F::pair_of(pair(l, m));
                const T zp = z[l * l + l + m], zm = z[l * l + l - m];
                const N slope = m > 0 ? zp * c[m] + zm * s[m] : plain<N>(zp);  // the derivative by P_lm
                plus = plus + zp * p[pair(l, m)];
                minus = minus + zm * p[pair(l, m)];
                if (l > m) g[1] = g[1] + k.polar * (p[pair(l - 1, m)] * slope);
                if (l > m + 1) ring = ring + k.ring * (p[pair(l - 1, m + 1)] * slope);
            }
            if (m > 0) {
                g[0] = g[0] + T(m) * (c[m - 1] * minus - s[m - 1] * plus);
                g[2] = g[2] + T(m) * (c[m - 1] * plus + s[m - 1] * minus);
            }
        }
        g[0] = g[0] - v[0] * ring;
        g[2] = g[2] - v[2] * ring;
    }
};

/// Degrees in the order of the columns: at(act) calls act(column, degree, component) for each column.
template <int... LS>
struct Degrees {
    template <class Do>
    static EQK_DEVICE void at(Do&& act) {
        int column = 0;
        (degree<LS>(act, column), ...);
    }

   private:
    template <int L, class Do>
    static EQK_DEVICE void degree(Do& act, int& column) {
#pragma unroll
        for (int m = -L; m <= L; ++m) act(column++, L, m);
    }
};

/// The harmonics at v, and of G = sum z Y the gradient: with u = v/|v|, dG/dv = (g - u (u . g)) / |v|.
template <class F, class N, class Write>
EQK_DEVICE void evaluate(N* v, const typename F::Real* z, N* g, Write&& write) {
    N inverse = plain<N>(typename F::Real(0));
    if constexpr (F::NORMALIZE) inverse = to_unit<F>(v);
    const Solid<F, N> solid(v);
    F::Columns::at([&](int column, int l, int m) { write(column, solid(l, m)); });
    if (!z) return;
    solid.gradient(v, z, g);
    if constexpr (F::NORMALIZE) {
        const N radial = dot(v, g);
        for (int a = 0; a < 3; ++a) g[a] = (g[a] - v[a] * radial) * inverse;
    }
}

/// z of an edge by component: columns of one degree add up.
template <class F, class T>
EQK_DEVICE void load_components(const T* row, T* z) {
#pragma unroll
    for (int j = 0; j < (F::LMAX + 1) * (F::LMAX + 1); ++j) z[j] = T(0);
    F::Columns::at([&](int column, int l, int m) { z[l * l + l + m] += row[column]; });
}

/// ORDER 0: y; 1: dvec = dG/dvec; 2: dvec and dz, the derivatives of h . dG/dvec.
template <class F, int ORDER, class T>
EQK_DEVICE void harmonics(const Vectors<T>& in) {
    const Index e = Index(blockIdx.x) * F::THREADS + threadIdx.x;
    if (e >= in.edges) return;
    T z[(F::LMAX + 1) * (F::LMAX + 1)];
    if constexpr (ORDER > 0) load_components<F>(in.z + e * F::DIM, z);
    if constexpr (ORDER < 2) {
        T v[3], g[3];
        for (int a = 0; a < 3; ++a) v[a] = in.vec[e * 3 + a];
        evaluate<F>(v, ORDER ? z : nullptr, g, [&](int column, T y) {
            if (!ORDER) in.y[e * F::DIM + column] = y;
        });
        if constexpr (ORDER == 1)
            for (int a = 0; a < 3; ++a) in.dvec[e * 3 + a] = g[a];
    } else {
        Dual<T> v[3], g[3];
        for (int a = 0; a < 3; ++a) v[a] = {in.vec[e * 3 + a], in.h[e * 3 + a]};
        evaluate<F>(v, z, g, [&](int column, Dual<T> y) { in.dz[e * F::DIM + column] = y.d; });
        for (int a = 0; a < 3; ++a) in.dvec[e * 3 + a] = g[a].d;
    }
}

}  // namespace eqk
