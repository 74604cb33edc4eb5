// The arithmetic of one path on one edge, V channels a lane.
//
// M_ik = sum_j C_ijk y_j, scaled, is made once an edge for all channels and lies in shared memory; H is the same of hy.
//   forward          a = w x;  z_k += M_ik a_i
//   backward         t_i = M_ik g_k;  dx = w t;  dw = x . t;  dM_ik = sum over channels of a_i g_k
//   double backward  of the derivative along hx, hy, hw:  b = w hx + hw x;  s_i = H_ik g_k
//                    z_k += M_ik b_i + H_ik a_i;  dx = hw t + w s;  dw = hx . t + x . s;  dM_ik = sum of b_i g_k
// The gradient of y follows from dM, once an edge (`sweep.cuh`).
#pragma once

#include "lanes.cuh"

namespace eqk {

constexpr int READ = 4;  // entries of M that are read at once; each path's begin at a multiple

/// M of a path whose y has D2 > 1 components: 2 l1 + 1 rows of 2 l3 + 1.
template <int D1, int D3>
struct Dense {
    static constexpr int IN = D1, OUT = D3, ENTRIES = D1 * D3;

    /// z += a M
    template <int V, class T>
    static EQK_DEVICE void apply(const T* m, const T* a, T* z) {
        each(m, [&](int i, int k, T value) {
#pragma unroll
            for (int v = 0; v < V; ++v) z[k * V + v] += value * a[i * V + v];
        });
    }

    /// t += M g
    template <int V, class T>
    static EQK_DEVICE void transposed(const T* m, const T* g, T* t) {
        each(m, [&](int i, int k, T value) {
#pragma unroll
            for (int v = 0; v < V; ++v) t[i * V + v] += value * g[k * V + v];
        });
    }

    /// to = the sum of a_i g_k over the channels of the warp
    template <int V, class T>
    static EQK_DEVICE void moments(const T* a, const T* g, int lane, T* to) {
        constexpr int TOGETHER = ENTRIES <= WARP ? D1 : 1;  // rows that are summed at once
#pragma unroll
        for (int first = 0; first < D1; first += TOGETHER) {
            T sums[TOGETHER * D3];
#pragma unroll
            for (int n = 0; n < TOGETHER * D3; ++n) {
                sums[n] = T(0);
#pragma unroll
                for (int v = 0; v < V; ++v) sums[n] += a[(first + n / D3) * V + v] * g[n % D3 * V + v];
            }
            warp_sums<TOGETHER * D3>(sums, lane, to + first * D3);
        }
    }

   private:
    template <class T, class Do>
    static EQK_DEVICE void each(const T* m, Do&& act) {
#pragma unroll
        for (int n = 0; n < ENTRIES; n += READ) {
            const Pack<T, READ> pack = *reinterpret_cast<const Pack<T, READ>*>(m + n);
#pragma unroll
            for (int r = 0; r < READ; ++r)
                if (n + r < ENTRIES) act((n + r) / D3, (n + r) % D3, pack.value[r]);
        }
    }
};

/// M of a path whose y is a scalar: one number times the unit matrix.
template <int D>
struct Diagonal {
    static constexpr int IN = D, OUT = D, ENTRIES = 1;

    template <int V, class T>
    static EQK_DEVICE void apply(const T* m, const T* a, T* z) {
#pragma unroll
        for (int n = 0; n < D * V; ++n) z[n] += m[0] * a[n];
    }

    template <int V, class T>
    static EQK_DEVICE void transposed(const T* m, const T* g, T* t) {
        apply<V>(m, g, t);
    }

    template <int V, class T>
    static EQK_DEVICE void moments(const T* a, const T* g, int lane, T* to) {
        T sum = T(0);
#pragma unroll
        for (int n = 0; n < D * V; ++n) sum += a[n] * g[n];
        warp_sums<1>(&sum, lane, to);
    }
};

/// to_n += f from_n, a factor for each channel (none: 1).
template <int D, int V, bool FACTOR, class T>
EQK_DEVICE void add_scaled(const T* f, const T* from, T* to) {
#pragma unroll
    for (int n = 0; n < D * V; ++n) to[n] += FACTOR ? f[n % V] * from[n] : from[n];
}

/// to_v += sum_i p_i q_i
template <int D, int V, class T>
EQK_DEVICE void add_products(const T* p, const T* q, T* to) {
#pragma unroll
    for (int n = 0; n < D * V; ++n) to[n % V] += p[n] * q[n];
}

/// Adds to z, dx and dw what the form F opens; the sums dM go to `moments`. An unweighted path (not WEIGHTED) has w
/// = 1.
template <class F, class M, int V, bool WEIGHTED, class T>
EQK_DEVICE void path(const T* m, const T* h, const T* w, const T* hw, const T* x, const T* hx, const T* g, T* z, T* dx,
                     T* dw, int lane, T* moments) {
    constexpr bool HW = F::HW && WEIGHTED, W = F::W && WEIGHTED, B = F::HX || HW;
    if constexpr (F::Z || F::Y) {
        T a[M::IN * V] = {}, b[M::IN * V] = {};
        add_scaled<M::IN, V, WEIGHTED>(w, x, a);
        if constexpr (F::HX) add_scaled<M::IN, V, WEIGHTED>(w, hx, b);
        if constexpr (HW) add_scaled<M::IN, V, true>(hw, x, b);
        if constexpr (F::Z && !F::SECOND) M::template apply<V>(m, a, z);
        if constexpr (F::Z && F::SECOND && B) M::template apply<V>(m, b, z);
        if constexpr (F::Z && F::SECOND && F::HY) M::template apply<V>(h, a, z);
        if constexpr (F::Y && !F::SECOND) M::template moments<V>(a, g, lane, moments);
        if constexpr (F::Y && F::SECOND && B) M::template moments<V>(b, g, lane, moments);
    }
    if constexpr (F::SECOND ? F::X && HW || W && F::HX : F::X || W) {
        T t[M::IN * V] = {};
        M::template transposed<V>(m, g, t);
        if constexpr (F::X && !F::SECOND) add_scaled<M::IN, V, WEIGHTED>(w, t, dx);
        if constexpr (F::X && F::SECOND && HW) add_scaled<M::IN, V, true>(hw, t, dx);
        if constexpr (W && !F::SECOND) add_products<M::IN, V>(x, t, dw);
        if constexpr (W && F::SECOND && F::HX) add_products<M::IN, V>(hx, t, dw);
    }
    if constexpr (F::SECOND && F::HY && (F::X || W)) {
        T s[M::IN * V] = {};
        M::template transposed<V>(h, g, s);
        if constexpr (F::X) add_scaled<M::IN, V, WEIGHTED>(w, s, dx);
        if constexpr (W) add_products<M::IN, V>(x, s, dw);
    }
}

}  // namespace eqk
