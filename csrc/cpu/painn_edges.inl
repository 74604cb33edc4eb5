// PaiNN on edges: radial functions with their derivatives, the message and its backward pass.
#pragma once

#include "numbers.inl"
#include "painn_model.inl"

namespace eqk {
namespace EQK_TARGET {

constexpr int64_t EDGE_BLOCK = 16;  // edges whose filters are formed together

// Derivatives 0 ... orders-1 by the length d of cutoff times (radial functions, 1), zero from the cutoff on; to
// (orders, K), the last function being 1. `room` holds 3 rows of K rounded up to whole vectors.
template <class T>
void radial_jet(const PainnSizes& s, const T* centres, T d, int orders, T* room, T* to) {
    const int64_t n = s.basis, K = n + 1, width = round_up<T>(K);
    if (!(d < T(s.cutoff))) {
        // NaN goes on as NaN.
        std::fill_n(to, orders * K, d != d ? d : T(0));
        return;
    }
    T *g0 = room, *g1 = room + width, *g2 = room + 2 * width;
    const double pi = 3.14159265358979323846;
    if (s.bessel) {
        // sin(k x) / d by the addition theorem; for short lengths its derivatives by their series.
        const double r = double(d), w = pi / s.cutoff, s1 = std::sin(w * r), c1 = std::cos(w * r);
        double sk = 0, ck = 1;
        for (int64_t k = 0; k < n; ++k) {
            const double next = sk * c1 + ck * s1, a = w * double(k + 1), x = a * r;
            ck = ck * c1 - sk * s1, sk = next;
            if (x < 0.02) {
                const double y = x * x;
                g0[k] = T(a * (1 - y / 6 + y * y / 120));
                g1[k] = T(a * a * (-x / 3 + x * y / 30));
                g2[k] = T(a * a * a * (-1.0 / 3 + y / 10 - y * y / 168));
                continue;
            }
            const double f = sk / r, f1 = (a * ck - f) / r;
            g0[k] = T(f), g1[k] = T(f1), g2[k] = T(-a * a * f - 2 * f1 / r);
        }
    } else {
        const T c = T(1 / (s.width * s.width));
        for (int64_t k = 0; k < width; k += lanes<T>) {
            const Vec<T> x = d - load(centres + k), g = exponential<T>(x * x * (T(-0.5) * c));
            store(g0 + k, g);
            store(g1 + k, -c * x * g);
            store(g2 + k, c * (c * x * x - T(1)) * g);
        }
    }
    g0[n] = T(1), g1[n] = T(0), g2[n] = T(0);
    const double a = pi / s.cutoff, x = a * double(d);
    const T f0 = T(0.5 * (1 + std::cos(x))), f1 = T(-0.5 * a * std::sin(x)), f2 = T(-0.5 * a * a * std::cos(x));
    for (int64_t k = 0; k < K; ++k) to[k] = f0 * g0[k];
    for (int64_t k = 0; k < K; ++k) to[K + k] = f1 * g0[k] + f0 * g1[k];
    if (orders > 2)
        for (int64_t k = 0; k < K; ++k) to[2 * K + k] = f2 * g0[k] + T(2) * f1 * g1[k] + f0 * g2[k];
}

// An edge's length and direction, their tangents along h, and its radial functions. A vector of zero has no direction.
template <class T, bool D>
void geometry(const PainnSizes& s, const T* centres, int64_t edge, const T* vec, const T* h, Rows<T> length,
              Rows<T> unit, Rows<T> jet, T* room) {
    const T* v = vec + 3 * edge;
    const T d = std::sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2]);
    T* u = unit[edge];
    length[edge][0] = d;
    for (int x = 0; x < 3; ++x) u[x] = d == T(0) ? T(0) : v[x] / d;
    radial_jet(s, centres, d, D ? 3 : 2, room, jet[edge]);
    if constexpr (D) {
        const T change = u[0] * h[0] + u[1] * h[1] + u[2] * h[2];
        length[edge][length.half] = change;
        for (int x = 0; x < 3; ++x) u[unit.half + x] = d == T(0) ? T(0) : (h[x] - u[x] * change) / d;
    }
}

// The gradient by an edge's vector from those by its length and its direction.
template <class T, bool D>
void geometry_backward(int64_t edge, Rows<T> length, Rows<T> unit, Rows<T> g_length, Rows<T> g_unit, T* g, T* dg) {
    const T *u = unit[edge], *gu = g_unit[edge], d = length[edge][0], gd = g_length[edge][0];
    const T inverse = d == T(0) ? T(0) : T(1) / d;
    const T along = u[0] * gu[0] + u[1] * gu[1] + u[2] * gu[2];
    if (g)
        for (int x = 0; x < 3; ++x) g[3 * edge + x] = gd * u[x] + (gu[x] - u[x] * along) * inverse;
    if constexpr (D) {
        const T *ut = u + unit.half, *gut = gu + g_unit.half, dt = length[edge][length.half];
        const T gdt = g_length[edge][g_length.half];
        T along_t = 0;
        for (int x = 0; x < 3; ++x) along_t += ut[x] * gu[x] + u[x] * gut[x];
        for (int x = 0; x < 3; ++x) {
            const T across = gu[x] - u[x] * along, across_t = gut[x] - ut[x] * along - u[x] * along_t;
            dg[3 * edge + x] = gdt * u[x] + gd * ut[x] + (across_t - across * inverse * dt) * inverse;
        }
    }
}

// One thread's scratch for a block of edges: radial rows, filters of value and slope, products with the filters.
template <class T, bool D>
struct EdgeBlock {
    static constexpr int64_t halves = 1 + D;
    int64_t K, width;
    Buffer<T> radial, filter, product;
    EdgeBlock(int64_t K_, int64_t width_)
        : K(K_),
          width(width_),
          radial(EDGE_BLOCK * 2 * halves * K_),
          filter(EDGE_BLOCK * 2 * halves * width_),
          product(D ? EDGE_BLOCK * halves * width_ : 0) {}
    // Kind 0 are values, 1 slopes by the length. Tangents follow the values of a kind.
    Rows<T> radial_rows(int kind) const { return {radial.data() + kind * halves * EDGE_BLOCK * K, K, EDGE_BLOCK * K}; }
    Rows<T> filter_rows(int kind) const {
        return {filter.data() + kind * halves * EDGE_BLOCK * width, width, EDGE_BLOCK * width};
    }
    Rows<T> product_rows() const { return {product.data(), width, EDGE_BLOCK * width}; }

    // Filters of `count` edges: cutoff (g W + b), the first n columns, and their slopes (kinds 2).
    void form(const Matrix<T>& weight, const int64_t* edges, int64_t count, int kinds, int64_t n, Rows<T> length,
              Rows<T> jet) const {
        for (int kind = 0; kind < kinds; ++kind) {
            const Rows<T> rows = radial_rows(kind), out = filter_rows(kind);
            for (int64_t e = 0; e < count; ++e) {
                const T* from = jet[edges[e]] + kind * K;
                std::copy_n(from, K, rows[e]);
                if constexpr (D) {
                    const T change = length[edges[e]][length.half];
                    for (int64_t k = 0; k < K; ++k) rows[e][rows.half + k] = from[K + k] * change;
                }
            }
            multiply<T, D>(0, count, rows, weight, K, n, nullptr, false, out);
        }
    }
};

template <class T, bool D>
struct Unit {
    Num<T, D> c[3];
    Unit(Rows<T> unit, int64_t edge) {
        for (int x = 0; x < 3; ++x) c[x] = fixed<T, D>(unit[edge][x], D ? unit[edge][(D ? unit.half : 0) + x] : T(0));
    }
};

// q_i += s, mu_i += r u + v mu_j, with s, r, v = phi_j * filter; a null mu_j is zero.
template <class T, bool D>
EQK_INLINE void message(int64_t P, const T* w, int64_t w_half, const T* phi, int64_t phi_half, const T* mu_j,
                        int64_t mu_half, const Unit<T, D>& u, T* q, int64_t q_half, T* mu, int64_t out_half) {
    for (int64_t c = 0; c < P; c += lanes<T>) {
        const auto s = get<T, D>(w + c, w_half) * get<T, D>(phi + c, phi_half);
        const auto r = get<T, D>(w + P + c, w_half) * get<T, D>(phi + P + c, phi_half);
        put(q + c, q_half, get<T, D>(q + c, q_half) + s);
        if (mu_j) {
            const auto v = get<T, D>(w + 2 * P + c, w_half) * get<T, D>(phi + 2 * P + c, phi_half);
            for (int x = 0; x < 3; ++x)
                put(mu + x * P + c, out_half,
                    get<T, D>(mu + x * P + c, out_half) + r * u.c[x] + v * get<T, D>(mu_j + x * P + c, mu_half));
        } else {
            for (int x = 0; x < 3; ++x) put(mu + x * P + c, out_half, get<T, D>(mu + x * P + c, out_half) + r * u.c[x]);
        }
    }
}

// Pointers of one edge's backward pass; halves are one for each pair of rows that share a layout.
template <class T>
struct MessageBackward {
    const T *w, *slope;
    int64_t w_half;
    const T *phi, *mu_j;
    int64_t phi_half, mu_half;
    const T *gq, *gmu;  // of the receiver
    int64_t gq_half, gmu_half;
    T *g_phi, *g_mu_j, *product;  // null where not wanted
    int64_t g_phi_half, g_mu_half;
};

// Adds to the gradients of phi_j and mu_j, returns those of the length and the direction (as sums, if Geometry), and
// keeps the products whose outer product with the radial functions is the filters' gradient.
template <class T, bool D, bool Geometry, bool Vectors>
EQK_INLINE void thirds_backward(int64_t P, const MessageBackward<T>& m, const Unit<T, D>& u, T* sums_out) {
    Num<T, D> gd = fixed<T, D>(0, 0), gu[3] = {gd, gd, gd};
    for (int64_t c = 0; c < P; c += lanes<T>) {
        const auto wr = get<T, D>(m.w + P + c, m.w_half), pr = get<T, D>(m.phi + P + c, m.phi_half);
        const auto ws = get<T, D>(m.w + c, m.w_half), ps = get<T, D>(m.phi + c, m.phi_half);
        const auto gs = get<T, D>(m.gq + c, m.gq_half), r = wr * pr;
        Num<T, D> gmu[3], gr = fixed<T, D>(0, 0);
        for (int x = 0; x < 3; ++x) {
            gmu[x] = get<T, D>(m.gmu + x * P + c, m.gmu_half);
            gr = gr + gmu[x] * u.c[x];
            if constexpr (Geometry) gu[x] = gu[x] + gmu[x] * r;
        }
        const auto ts = ps * gs, tr = pr * gr;
        if constexpr (Geometry)
            gd = gd + ts * get<T, D>(m.slope + c, m.w_half) + tr * get<T, D>(m.slope + P + c, m.w_half);
        if (m.product) put(m.product + c, m.w_half, ts), put(m.product + P + c, m.w_half, tr);
        if (m.g_phi) {
            put(m.g_phi + c, m.g_phi_half, get<T, D>(m.g_phi + c, m.g_phi_half) + ws * gs);
            put(m.g_phi + P + c, m.g_phi_half, get<T, D>(m.g_phi + P + c, m.g_phi_half) + wr * gr);
        }
        if constexpr (Vectors) {
            const auto wv = get<T, D>(m.w + 2 * P + c, m.w_half), pv = get<T, D>(m.phi + 2 * P + c, m.phi_half);
            const auto v = wv * pv;
            Num<T, D> gv = fixed<T, D>(0, 0);
            for (int x = 0; x < 3; ++x) {
                gv = gv + gmu[x] * get<T, D>(m.mu_j + x * P + c, m.mu_half);
                put(m.g_mu_j + x * P + c, m.g_mu_half, get<T, D>(m.g_mu_j + x * P + c, m.g_mu_half) + v * gmu[x]);
            }
            const auto tv = pv * gv;
            if constexpr (Geometry) gd = gd + tv * get<T, D>(m.slope + 2 * P + c, m.w_half);
            if (m.product) put(m.product + 2 * P + c, m.w_half, tv);
            put(m.g_phi + 2 * P + c, m.g_phi_half, get<T, D>(m.g_phi + 2 * P + c, m.g_phi_half) + wv * gv);
        }
    }
    if constexpr (!Geometry) return;
    const Num<T, D>* all[4] = {&gd, &gu[0], &gu[1], &gu[2]};
    for (int n = 0; n < 4; ++n) {
        sums_out[n] = sum<T>(all[n]->v);
        if constexpr (D) sums_out[4 + n] = sum<T>(all[n]->t);
    }
}

template <class T, bool D, bool Geometry>
EQK_INLINE void message_backward(int64_t P, const MessageBackward<T>& m, const Unit<T, D>& u, T* sums) {
    if (m.mu_j)
        thirds_backward<T, D, Geometry, true>(P, m, u, sums);
    else
        thirds_backward<T, D, Geometry, false>(P, m, u, sums);
}

}  // namespace EQK_TARGET
}  // namespace eqk
