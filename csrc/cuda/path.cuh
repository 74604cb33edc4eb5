// The arithmetic of one path on one edge, V channels a lane.
//
// M_ik = sum_j C_ijk y_j and H_ik, the same of hy, are made entry by entry, by each lane for its channels (one for all
// of them where y has one channel), and used at once. With w scaled by the path's factor:
//   forward          a = w x;  z_k += M_ik a_i
//   backward         t_i = M_ik g_k;  dx = w t;  dw = x . t;  dy_j += C_ijk times the sum of a_i g_k over channels
//   double backward  of the derivative along hx, hy, hw:  b = w hx + hw x;  s_i = H_ik g_k
//                    z_k += M_ik b_i + H_ik a_i;  dx = hw t + w s;  dw = hx . t + x . s;  dy as above, b for a
// dy is of the lane's channels alone; where y has one channel the walk (`sweep.cuh`) adds up the lanes.
#pragma once

#include "lanes.cuh"

namespace eqk {

/// A nonzero C_ijk: which of the numbers of y, and its value.
template <class T>
struct Cell {
    int j;
    T value;
};

/// f scaled, a factor for each channel.
template <int V, class T>
EQK_DEVICE void scaled(const T* f, T scale, T* to) {
#pragma unroll
    for (int v = 0; v < V; ++v) to[v] = f ? scale * f[v] : scale;
}

/// to_n += f from_n
template <int D, int V, class T>
EQK_DEVICE void add_scaled(const T* f, const T* from, T* to) {
#pragma unroll
    for (int n = 0; n < D * V; ++n) to[n] += f[n % V] * from[n];
}

/// to_v += scale times the sum over i of p_i q_i
template <int D, int V, class T>
EQK_DEVICE void add_products(T scale, const T* p, const T* q, T* to) {
#pragma unroll
    for (int v = 0; v < V; ++v) {
        T sum = T(0);
#pragma unroll
        for (int i = 0; i < D; ++i) sum += p[i * V + v] * q[i * V + v];
        to[v] += scale * sum;
    }
}

/// Adds to z, dx, dw and dy what the form F opens. P: the path's sizes, scale and coefficients, `P::entries` calls its
/// argument with i, k and the cells of each entry of M that is not zero. Where it has no weights (w is null), w = 1.
template <class F, class P, int V, class T>
EQK_DEVICE void path(const T* w, const T* hw, const T* x, const T* hx, const T* y, const T* hy, const T* g, T* z, T* dx,
                     T* dw, T* dy) {
    constexpr int D = P::IN;
    constexpr bool HW = F::HW && P::WEIGHTED, W = F::W && P::WEIGHTED, SECOND = F::SECOND, HY = SECOND && F::HY;
    constexpr bool B = SECOND && (F::HX || HW) && (F::Z || F::Y), A = SECOND ? HY && F::Z : F::Z || F::Y;
    constexpr bool TS = SECOND ? F::X && HW || W && F::HX : F::X || W, S = HY && (F::X || W);
    constexpr bool DY = F::Y && (B || !SECOND);
    constexpr int N = F::BY_CHANNEL ? V : 1;  // channels of y
    const T scale = T(P::SCALE);
    T wu[V], hwu[V], a[D * V] = {}, b[D * V] = {}, t[D * V] = {}, s[D * V] = {};
    scaled<V>(P::WEIGHTED ? w : nullptr, scale, wu);
    if constexpr (HW) scaled<V>(hw, scale, hwu);
    if constexpr (A) add_scaled<D, V>(wu, x, a);
    if constexpr (B && F::HX) add_scaled<D, V>(wu, hx, b);
    if constexpr (B && HW) add_scaled<D, V>(hwu, x, b);
    P::template entries<T>([&](int i, int k, auto... cells) {
        [[maybe_unused]] T m[N] = {}, h[N] = {}, p[N] = {};
        // Without a loop where y has one channel: to unroll it takes the compiler long.
        if constexpr (F::READS_Y && N == 1) m[0] = ((cells.value * y[cells.j]) + ...);
        if constexpr (HY && N == 1) h[0] = ((cells.value * hy[cells.j]) + ...);
        if constexpr (N > 1) {
#pragma unroll
            for (int n = 0; n < N; ++n) {
                if constexpr (F::READS_Y) m[n] = ((cells.value * y[cells.j * N + n]) + ...);
                if constexpr (HY) h[n] = ((cells.value * hy[cells.j * N + n]) + ...);
            }
        }
#pragma unroll
        for (int v = 0; v < V; ++v) {
            const int at = i * V + v, to = k * V + v, n = N > 1 ? v : 0;
            if constexpr (F::Z && !SECOND) z[to] += m[n] * a[at];
            if constexpr (F::Z && B) z[to] += m[n] * b[at];
            if constexpr (F::Z && HY) z[to] += h[n] * a[at];
            if constexpr (TS) t[at] += m[n] * g[to];
            if constexpr (S) s[at] += h[n] * g[to];
            if constexpr (DY) p[n] += (SECOND ? b : a)[at] * g[to];
        }
        if constexpr (DY && N == 1) ((dy[cells.j] += cells.value * p[0]), ...);
        if constexpr (DY && N > 1) {
#pragma unroll
            for (int n = 0; n < N; ++n) ((dy[cells.j * N + n] += cells.value * p[n]), ...);
        }
    });
    if constexpr (F::X && TS && (!SECOND || HW)) add_scaled<D, V>(SECOND ? hwu : wu, t, dx);
    if constexpr (F::X && S) add_scaled<D, V>(wu, s, dx);
    if constexpr (W && TS && (!SECOND || F::HX)) add_products<D, V>(scale, SECOND ? hx : x, t, dw);
    if constexpr (W && S) add_products<D, V>(scale, x, s, dw);
}

}  // namespace eqk
