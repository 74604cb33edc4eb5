// PaiNN on atoms: the elementwise parts of the update and the read-out, their backward passes, sums of outer products.
#pragma once

#include "painn_edges.inl"

namespace eqk {
namespace EQK_TARGET {

// The tangent of sum over rows of a^T b, (m, n), to C or added to it: A's values with B's tangents and the other way
// round.
template <class T>
void outer_tangent(int64_t rows, const T* a, int64_t a_half, int64_t a_row, int64_t m, const T* b, int64_t b_half,
                   int64_t b_row, int64_t n, bool add, T* c, int64_t c_row) {
    outer(rows, a, a + a_half, a_row, m, b + b_half, b, b_row, n, add, c, c_row);
}

// The tangent of a bias' gradient: the sum of the rows' tangents.
template <class T>
void add_rows_of(int64_t rows, const T* a, int64_t a_row, int64_t n, T* c) {
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t k = 0; k < n; ++k) c[k] += a[r * a_row + k];
}

template <class T, bool D>
void silu_row(int64_t n, const T* x, int64_t x_half, T* y, int64_t y_half) {
    for (int64_t c = 0; c < n; c += lanes<T>) put(y + c, y_half, silu(get<T, D>(x + c, x_half)));
}

// g *= silu'(x).
template <class T, bool D>
void silu_backward(int64_t n, const T* x, int64_t x_half, T* g, int64_t g_half) {
    for (int64_t c = 0; c < n; c += lanes<T>)
        put(g + c, g_half, get<T, D>(g + c, g_half) * silu_slope(get<T, D>(x + c, x_half)));
}

// |V| with epsilon, beside q; vu holds V and U, 2P columns a component.
template <class T, bool D>
void lengths(int64_t P, T epsilon, const T* vu, int64_t half, T* n, int64_t n_half) {
    for (int64_t c = 0; c < P; c += lanes<T>) {
        Num<T, D> square = fixed<T, D>(epsilon, 0);
        for (int x = 0; x < 3; ++x) {
            const auto v = get<T, D>(vu + x * 2 * P + c, half);
            square = square + v * v;
        }
        put(n + c, n_half, root(square));
    }
}

// q += a_s + a_sv V.U; mu += a_v U where there is a next layer. a holds the thirds s, sv, v.
template <class T, bool D>
void update(int64_t P, const T* a, int64_t a_half, const T* vu, int64_t vu_half, const T* q, int64_t q_half,
            const T* mu, int64_t mu_half, T* q_to, int64_t q_to_half, T* mu_to, int64_t mu_to_half) {
    for (int64_t c = 0; c < P; c += lanes<T>) {
        Num<T, D> dot = fixed<T, D>(0, 0), u[3];
        for (int x = 0; x < 3; ++x) {
            u[x] = get<T, D>(vu + (2 * x + 1) * P + c, vu_half);
            dot = dot + get<T, D>(vu + 2 * x * P + c, vu_half) * u[x];
        }
        put(q_to + c, q_to_half,
            get<T, D>(q + c, q_half) + get<T, D>(a + c, a_half) + get<T, D>(a + P + c, a_half) * dot);
        if (!mu_to) continue;
        const auto av = get<T, D>(a + 2 * P + c, a_half);
        for (int x = 0; x < 3; ++x) put(mu_to + x * P + c, mu_to_half, get<T, D>(mu + x * P + c, mu_half) + av * u[x]);
    }
}

// Gradients by a, V and U of the update; gmu null is zero (the last layer).
template <class T, bool D>
void update_backward(int64_t P, const T* a, int64_t a_half, const T* vu, int64_t vu_half, const T* gq, int64_t gq_half,
                     const T* gmu, int64_t gmu_half, T* ga, int64_t ga_half, T* gvu, int64_t gvu_half) {
    for (int64_t c = 0; c < P; c += lanes<T>) {
        const auto g = get<T, D>(gq + c, gq_half), along = g * get<T, D>(a + P + c, a_half);
        Num<T, D> dot = fixed<T, D>(0, 0), gv = dot;
        for (int x = 0; x < 3; ++x) {
            const auto v = get<T, D>(vu + 2 * x * P + c, vu_half), u = get<T, D>(vu + (2 * x + 1) * P + c, vu_half);
            dot = dot + v * u;
            put(gvu + 2 * x * P + c, gvu_half, along * u);
            Num<T, D> gu = along * v;
            if (gmu) {
                const auto m = get<T, D>(gmu + x * P + c, gmu_half);
                gv = gv + m * u;
                gu = gu + m * get<T, D>(a + 2 * P + c, a_half);
            }
            put(gvu + (2 * x + 1) * P + c, gvu_half, gu);
        }
        put(ga + c, ga_half, g);
        put(ga + P + c, ga_half, g * dot);
        if (gmu) put(ga + 2 * P + c, ga_half, gv);
    }
}

// The gradient by |V| goes to V: gV += gn V / n.
template <class T, bool D>
void lengths_backward(int64_t P, const T* vu, int64_t vu_half, const T* n, int64_t n_half, const T* gn, int64_t gn_half,
                      T* gvu, int64_t gvu_half) {
    for (int64_t c = 0; c < P; c += lanes<T>) {
        const auto f = get<T, D>(gn + c, gn_half) * inverse(get<T, D>(n + c, n_half));
        for (int x = 0; x < 3; ++x)
            put(gvu + 2 * x * P + c, gvu_half,
                get<T, D>(gvu + 2 * x * P + c, gvu_half) + f * get<T, D>(vu + 2 * x * P + c, vu_half));
    }
}

}  // namespace EQK_TARGET
}  // namespace eqk
