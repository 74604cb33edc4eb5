// One block of one path over a few edges: the inner loops, on (2l+1)-sized pieces known at compile time.
//
//   M[i,k] = sum_j C_ijk y_j            formed by the caller, entry (i, k) of edge e at m[(i * D3 + k) * SIDE + e]
//   z[k]  += sum_i M[i,k] w x[i]        a channel is a lane
//   t[i]   = sum_k M[i,k] g[k],  dw = sum_i x[i] t[i],  dx[i] = w t[i],  dM[i,k] = sum_lanes w x[i] g[k]
// and along tangents (hx, hw, and N formed from hy like M from y), `Second`:
//   z[k]  += sum_i M[i,k] (w hx[i] + hw x[i]) + N[i,k] w x[i]
//   s[i]   = sum_k N[i,k] g[k],  dw = sum_i hx[i] t[i] + x[i] s[i],  dx[i] = w s[i] + hw t[i]
//   dM[i,k] = sum_lanes (w hx[i] + hw x[i]) g[k]
#include "../program/tables.hpp"
#include "vector.hpp"

namespace eqk {
namespace EQK_TARGET {

constexpr int EDGES = 4;  // edges a block: their weights and the receiver's accumulators share the first-level cache
constexpr int SIDE = 4 * EDGES;  // edges side by side in M and dM

#if EQK_VECTOR_BYTES == 64
constexpr int REGISTERS = 32;
#else
constexpr int REGISTERS = 16;
#endif

// The rows of up to EDGES edges; h: tangents; d: results. plain: in a `Second` sweep dw of the form itself, or null.
// streamed: where a path's complete dw goes past the caches, or null: it stays in dw.
// ahead: rows of the next block's edges, to be fetched meanwhile, or null.
template <class T>
struct Edges {
    int count;
    const T *x[EDGES], *w[EDGES], *hx[EDGES], *hw[EDGES];
    T *dx[EDGES], *dw[EDGES], *plain[EDGES], *streamed[EDGES];
    const T *ahead[EDGES], *tangent_ahead[EDGES], *dw_ahead[EDGES];  // weights
    const T *x_ahead[EDGES], *hx_ahead[EDGES];
};

// Where a block lies in these rows, its coefficients M and N, and the receiver's rows.
template <class T>
struct Place {
    int64_t x, w, channels;
    const T *m, *n, *g;
    T *z, *dm;
    bool fresh;        // no block before it adds to its dx
    bool first, last;  // block of its path: dw is stored, later ones add to it; dw is complete
};

// Ask for columns of a row (unless it is null), to be written where Write is 1.
template <int Write, class T>
EQK_INLINE void fetch_columns(const T* row, int64_t first, int64_t count) {
    for (int64_t c = 0; row && c < count; c += line<T>) __builtin_prefetch(row + first + c, Write, 3);
}

template <class T, int D1, int D3, int N, bool Second>
EQK_INLINE void forward_tile(const Edges<T>& e, const Place<T>& at, int64_t u) {
    constexpr int L = lanes<T>;
    const int64_t stride = at.channels;
    T* const z = at.z + u;
    Vec<T> acc[D3][N];
    for (int k = 0; k < D3; ++k)
        for (int b = 0; b < N; ++b) acc[k][b] = load<T>(z + k * stride + L * b);
    for (int a = 0; a < e.count; ++a) {
        const T *const x = e.x[a] + at.x + u, *const w = e.w[a] + at.w + u;
        const T *const m = at.m + a, *const n = at.n + a;
        Vec<T> weight[N], tangent[N];
        for (int b = 0; b < N; ++b) weight[b] = load<T>(w + L * b);
        if constexpr (Second)
            for (int b = 0; b < N; ++b) tangent[b] = load<T>(e.hw[a] + at.w + u + L * b);
#pragma GCC unroll 8
        for (int i = 0; i < D1; ++i) {
            Vec<T> p[N], q[N];
            for (int b = 0; b < N; ++b) {
                const Vec<T> xi = load<T>(x + i * stride + L * b);
                p[b] = weight[b] * xi;
                if constexpr (Second)
                    q[b] = weight[b] * load<T>(e.hx[a] + at.x + u + i * stride + L * b) + tangent[b] * xi;
            }
#pragma GCC unroll 8
            for (int k = 0; k < D3; ++k) {
                const int c = (i * D3 + k) * SIDE;
                for (int b = 0; b < N; ++b) {
                    if constexpr (Second)
                        acc[k][b] += q[b] * m[c] + p[b] * n[c];
                    else
                        acc[k][b] += p[b] * m[c];
                }
            }
        }
    }
    for (int k = 0; k < D3; ++k)
        for (int b = 0; b < N; ++b) store<T>(z + k * stride + L * b, acc[k][b]);
}

template <class T, int D1, int D3, bool Second>
__attribute__((noinline)) void forward_block(const Edges<T>& e, const Place<T>& at) {
    constexpr int N = D3 <= 3 ? 4 : 2, L = lanes<T>;
    int64_t u = 0;
    for (; u + N * L <= at.channels; u += N * L) forward_tile<T, D1, D3, N, Second>(e, at, u);
    for (; u < at.channels; u += L) forward_tile<T, D1, D3, 1, Second>(e, at, u);
}

// What one pass over an edge reads and writes of components [i0, i0 + I) of x.
template <class T>
struct Pass {
    const T *x, *w, *hx, *hw, *m, *n, *g;
    T *dx, *dw, *streamed, *plain;
    int64_t stride;
    bool first, fresh;  // dw and plain are stored, dx is stored: nothing was added to them yet
};

// Channels [u, u + N lanes). One vector keeps g in registers, two share the broadcasts of M.
template <class T, int D3, int I, int N, bool Second>
EQK_INLINE void backward_vectors(const Pass<T>& r, int64_t u, Vec<T> (&moments)[I * D3]) {
    constexpr int L = lanes<T>;
    Vec<T> w[N], hw[N], total[N], base[N], kept[N == 1 ? D3 : 1];
    for (int v = 0; v < N; ++v) {
        w[v] = load<T>(r.w + u + v * L);
        total[v] = base[v] = Vec<T>{};
        if constexpr (Second) hw[v] = load<T>(r.hw + u + v * L);
    }
    if constexpr (N == 1)
        for (int k = 0; k < D3; ++k) kept[k] = load<T>(r.g + k * r.stride + u);
#pragma GCC unroll 8
    for (int i = 0; i < I; ++i) {
        const int64_t at = i * r.stride + u;
        Vec<T> q[N], t[N], s[N];
        for (int v = 0; v < N; ++v) {
            q[v] = w[v] * load<T>(r.x + at + v * L);
            if constexpr (Second) q[v] = w[v] * load<T>(r.hx + at + v * L) + hw[v] * load<T>(r.x + at + v * L);
            t[v] = s[v] = Vec<T>{};
        }
#pragma GCC unroll 8
        for (int k = 0; k < D3; ++k) {
            const int c = i * D3 + k;
            for (int v = 0; v < N; ++v) {
                Vec<T> g = N == 1 ? kept[k] : load<T>(r.g + k * r.stride + u + v * L);
                if constexpr (N > 1 && !Second) once(g);
                t[v] += g * r.m[c * SIDE];
                if constexpr (Second) s[v] += g * r.n[c * SIDE];
                moments[c] += q[v] * g;
            }
        }
        for (int v = 0; v < N; ++v) {
            T* const to = r.dx + at + v * L;
            const Vec<T> x = load<T>(r.x + at + v * L), dx = r.fresh ? Vec<T>{} : load<T>(to);
            if constexpr (Second) {
                total[v] += load<T>(r.hx + at + v * L) * t[v] + x * s[v];
                base[v] += x * t[v];
                store<T>(to, dx + w[v] * s[v] + hw[v] * t[v]);
            } else {
                total[v] += x * t[v];
                store<T>(to, dx + w[v] * t[v]);
            }
        }
    }
    for (int v = 0; v < N; ++v) {
        const int64_t at = u + v * L;
        if (!r.first) total[v] += load<T>(r.dw + at);
        r.streamed ? stream<T>(r.streamed + at, total[v]) : store<T>(r.dw + at, total[v]);
        if (r.plain) store<T>(r.plain + at, r.first ? base[v] : base[v] + load<T>(r.plain + at));
    }
}

// Components [i0, i0 + I) of x of one edge.
template <class T, int D3, int I, bool Second>
EQK_INLINE void backward_rows(const Edges<T>& e, const Place<T>& at, int a, int i0, bool first, bool last) {
    constexpr int L = lanes<T>, N = REGISTERS == 16 && I == 1 && D3 >= 5 ? 2 : 1, count = I * D3;
    const int64_t x = at.x + i0 * at.channels;
    const T *m = at.m + i0 * D3 * SIDE + a, *n = at.n + i0 * D3 * SIDE + a;
    hide(m), hide(n);
    const Pass<T> rows{e.x[a] + x,
                       e.w[a] + at.w,
                       e.hx[a] + x,
                       e.hw[a] + at.w,
                       m,
                       n,
                       at.g,
                       e.dx[a] + x,
                       e.dw[a] + at.w,
                       last && e.streamed[a] ? e.streamed[a] + at.w : nullptr,
                       Second && e.plain[a] ? e.plain[a] + at.w : nullptr,
                       at.channels,
                       first,
                       at.fresh};
    Vec<T> moments[count];
#pragma GCC unroll 64
    for (int c = 0; c < count; ++c) moments[c] = Vec<T>{};
    int64_t u = 0;
    if constexpr (N > 1)
        for (; u + N * L <= at.channels; u += N * L) backward_vectors<T, D3, I, N, Second>(rows, u, moments);
    for (; u < at.channels; u += L) backward_vectors<T, D3, I, 1, Second>(rows, u, moments);
    T* const dm = at.dm + i0 * D3 * SIDE + a;
#pragma GCC unroll 8
    for (int from = 0; from < count; from += L) {
        const int some = count - from < L ? count - from : L;
        const Vec<T> sum = sums<T>(moments + from, some);
#pragma GCC unroll 64
        for (int c = 0; c < some; ++c) dm[(from + c) * SIDE] = sum[reversed<T>(c)];
    }
}

// Ask for a path's weights and dw of the edge in the next block.
template <bool Second, class T>
EQK_INLINE void ask_weights(const Edges<T>& e, const Place<T>& at, int a) {
    fetch_columns<0>(e.ahead[a], at.w, at.channels);
    if (Second) fetch_columns<0>(e.tangent_ahead[a], at.w, at.channels);
    fetch_columns<1>(e.dw_ahead[a], at.w, at.channels);
}

// dx is added to, dw is stored or added to, dm is written.
template <class T, int D1, int D3, bool Second>
__attribute__((noinline)) void backward_block(const Edges<T>& e, const Place<T>& at) {
    constexpr int fit = (REGISTERS * 3 / 4 - D3) / D3, I = fit < 1 ? 1 : fit > D1 ? D1 : fit, rest = D1 % I;
    for (int a = 0; a < e.count; ++a) {
        if (at.first) ask_weights<Second>(e, at, a);
        int i = 0;
        for (; i + I <= D1; i += I)
            backward_rows<T, D3, I, Second>(e, at, a, i, i == 0 && at.first, i + I == D1 && at.last);
        if constexpr (rest > 0) backward_rows<T, D3, rest, Second>(e, at, a, i, false, at.last);
    }
}

// The same where M is m[0] times the unit matrix: z[k] += m w x[k], with r = sum_k x[k] g[k]
//   dw = m r,  dM = sum_lanes w r,  dx[k] = m w g[k]
template <class T, int D, bool Second>
__attribute__((noinline)) void forward_unit(const Edges<T>& e, const Place<T>& at) {
    constexpr int L = lanes<T>;
    const int64_t stride = at.channels;
    for (int64_t u = 0; u < stride; u += L) {
        Vec<T> acc[D];
        for (int k = 0; k < D; ++k) acc[k] = load<T>(at.z + k * stride + u);
        for (int a = 0; a < e.count; ++a) {
            const Vec<T> w = load<T>(e.w[a] + at.w + u), p = w * at.m[a];
            Vec<T> q{};
            if constexpr (Second) q = load<T>(e.hw[a] + at.w + u) * at.m[a] + w * at.n[a];
            for (int k = 0; k < D; ++k) {
                const int64_t column = at.x + k * stride + u;
                if constexpr (Second)
                    acc[k] += p * load<T>(e.hx[a] + column) + q * load<T>(e.x[a] + column);
                else
                    acc[k] += p * load<T>(e.x[a] + column);
            }
        }
        for (int k = 0; k < D; ++k) store<T>(at.z + k * stride + u, acc[k]);
    }
}

template <class T, int D, bool Second>
__attribute__((noinline)) void backward_unit(const Edges<T>& e, const Place<T>& at) {
    constexpr int L = lanes<T>;
    const int64_t stride = at.channels;
    const T* const from = at.g;
    const bool first = at.first, fresh = at.fresh;
    for (int a = 0; a < e.count; ++a) {
        if (first) ask_weights<Second>(e, at, a);
        const T m = at.m[a], n = Second ? at.n[a] : T(0);
        const T *const x = e.x[a] + at.x, *const hx = e.hx[a] + at.x;
        const T *const weights = e.w[a] + at.w, *const tangents = e.hw[a] + at.w;
        T *const dx = e.dx[a] + at.x, *const dw = e.dw[a] + at.w;
        T* const streamed = at.last && e.streamed[a] ? e.streamed[a] + at.w : nullptr;
        T* const plain = Second && e.plain[a] ? e.plain[a] + at.w : nullptr;
        Vec<T> moment{};
        for (int64_t u = 0; u < stride; u += L) {
            const Vec<T> w = load<T>(weights + u);
            Vec<T> hw{}, q = w * m, r{}, h{};
            if constexpr (Second) hw = load<T>(tangents + u), q = w * n + hw * m;
#pragma GCC unroll 8
            for (int k = 0; k < D; ++k) {
                const int64_t c = k * stride + u;
                const Vec<T> g = load<T>(from + c);
                r += load<T>(x + c) * g;
                if constexpr (Second) h += load<T>(hx + c) * g;
                store<T>(dx + c, fresh ? q * g : q * g + load<T>(dx + c));
            }
            moment += Second ? w * h + hw * r : w * r;
            const Vec<T> total = (first ? Vec<T>{} : load<T>(dw + u)) + (Second ? h * m + r * n : r * m);
            streamed ? stream<T>(streamed + u, total) : store<T>(dw + u, total);
            if (plain) store<T>(plain + u, first ? r * m : r * m + load<T>(plain + u));
        }
        at.dm[a] = sum<T>(moment);
    }
}

template <class T>
using Kernel = void (*)(const Edges<T>&, const Place<T>&);

template <class T, bool Second>
Kernel<T> forward_of(const Block& b) {
    if (b.unit) {
        static constexpr Kernel<T> table[3] = {forward_unit<T, 3, Second>, forward_unit<T, 5, Second>,
                                               forward_unit<T, 7, Second>};
        return table[b.d1 / 2 - 1];
    }
#define EQK_ROW(d)                                                                                      \
    {                                                                                                   \
        forward_block<T, d, 1, Second>, forward_block<T, d, 3, Second>, forward_block<T, d, 5, Second>, \
            forward_block<T, d, 7, Second>                                                              \
    }
    static constexpr Kernel<T> table[4][4] = {EQK_ROW(1), EQK_ROW(3), EQK_ROW(5), EQK_ROW(7)};
#undef EQK_ROW
    return table[b.d1 / 2][b.d3 / 2];
}

template <class T, bool Second>
Kernel<T> backward_of(const Block& b) {
    if (b.unit) {
        static constexpr Kernel<T> table[3] = {backward_unit<T, 3, Second>, backward_unit<T, 5, Second>,
                                               backward_unit<T, 7, Second>};
        return table[b.d1 / 2 - 1];
    }
#define EQK_ROW(d)                                                                                         \
    {                                                                                                      \
        backward_block<T, d, 1, Second>, backward_block<T, d, 3, Second>, backward_block<T, d, 5, Second>, \
            backward_block<T, d, 7, Second>                                                                \
    }
    static constexpr Kernel<T> table[4][4] = {EQK_ROW(1), EQK_ROW(3), EQK_ROW(5), EQK_ROW(7)};
#undef EQK_ROW
    return table[b.d1 / 2][b.d3 / 2];
}

}  // namespace EQK_TARGET
}  // namespace eqk
