// One block of one path over a few edges: the inner loops, on (2l+1)-sized pieces known at compile time.
//
//   M[i,k] = sum_j C_ijk y_j            formed by the caller, entry (i, k) of edge e at m[(i * D3 + k) * EDGES + e]
//   z[k]  += sum_i M[i,k] w x[i]        a channel is a lane
//   t[i]   = sum_k M[i,k] g[k],  dw = sum_i x[i] t[i],  dx[i] = w t[i],  dM[i,k] = sum_lanes w x[i] g[k]
// and along tangents (hx, hw, and N formed from hy like M from y), `Second`:
//   z[k]  += sum_i M[i,k] (w hx[i] + hw x[i]) + N[i,k] w x[i]
//   s[i]   = sum_k N[i,k] g[k],  dw = sum_i hx[i] t[i] + x[i] s[i],  dx[i] = w s[i] + hw t[i]
//   dM[i,k] = sum_lanes (w hx[i] + hw x[i]) g[k]
#include "vector.hpp"

namespace eqk {
namespace EQK_TARGET {

constexpr int EDGES = 4;  // edges a block: their weights and the receiver's accumulators share the first-level cache

#if EQK_VECTOR_BYTES == 64
constexpr int REGISTERS = 32;
#else
constexpr int REGISTERS = 16;
#endif

// The pointers of up to EDGES edges, already moved to the block's segments; h: tangents; d: results.
template <class T>
struct Edges {
    int count;
    const T *x[EDGES], *w[EDGES], *hx[EDGES], *hw[EDGES];
    T *dx[EDGES], *dw[EDGES];
};

template <class T, int D1, int D3, int N, bool Second>
EQK_INLINE void forward_tile(const Edges<T>& e, const T* m, const T* n, int64_t stride, int64_t u, T* z) {
    constexpr int L = lanes<T>;
    Vec<T> acc[D3][N];
    for (int k = 0; k < D3; ++k)
        for (int b = 0; b < N; ++b) acc[k][b] = load<T>(z + k * stride + u + L * b);
    for (int a = 0; a < e.count; ++a) {
        Vec<T> w[N], hw[N];
        for (int b = 0; b < N; ++b) w[b] = load<T>(e.w[a] + u + L * b);
        if constexpr (Second)
            for (int b = 0; b < N; ++b) hw[b] = load<T>(e.hw[a] + u + L * b);
#pragma GCC unroll 8
        for (int i = 0; i < D1; ++i) {
            Vec<T> p[N], q[N];
            for (int b = 0; b < N; ++b) {
                const Vec<T> x = load<T>(e.x[a] + i * stride + u + L * b);
                p[b] = w[b] * x;
                if constexpr (Second) q[b] = w[b] * load<T>(e.hx[a] + i * stride + u + L * b) + hw[b] * x;
            }
#pragma GCC unroll 8
            for (int k = 0; k < D3; ++k) {
                const int at = (i * D3 + k) * EDGES + a;
                for (int b = 0; b < N; ++b) {
                    if constexpr (Second)
                        acc[k][b] += q[b] * m[at] + p[b] * n[at];
                    else
                        acc[k][b] += p[b] * m[at];
                }
            }
        }
    }
    for (int k = 0; k < D3; ++k)
        for (int b = 0; b < N; ++b) store<T>(z + k * stride + u + L * b, acc[k][b]);
}

template <class T, int D1, int D3, bool Second>
__attribute__((noinline)) void forward_block(const Edges<T>& e, const T* m, const T* n, int64_t channels, T* z) {
    constexpr int N = D3 <= 3 ? 4 : 2, L = lanes<T>;
    int64_t u = 0;
    for (; u + N * L <= channels; u += N * L) forward_tile<T, D1, D3, N, Second>(e, m, n, channels, u, z);
    for (; u < channels; u += L) forward_tile<T, D1, D3, 1, Second>(e, m, n, channels, u, z);
}

// What happens to dw: one block after another adds to it; what is final may go past the caches.
enum class Put { store, add, stream };

// Components [i0, i0 + I) of x of one edge.
template <class T, int D3, int I, bool Second>
EQK_INLINE void backward_rows(const Edges<T>& e, int a, int i0, const T* m, const T* n, int64_t stride, const T* g,
                              T* dm, Put put) {
    constexpr int L = lanes<T>;
    Vec<T> moments[I][D3];
    for (int i = 0; i < I; ++i)
        for (int k = 0; k < D3; ++k) moments[i][k] = Vec<T>{};
    for (int64_t u = 0; u < stride; u += L) {
        const Vec<T> w = load<T>(e.w[a] + u);
        Vec<T> hw{}, dw = put == Put::add ? load<T>(e.dw[a] + u) : Vec<T>{};
        if constexpr (Second) hw = load<T>(e.hw[a] + u);
        Vec<T> gk[D3];
        for (int k = 0; k < D3; ++k) gk[k] = load<T>(g + k * stride + u);
#pragma GCC unroll 8
        for (int i = 0; i < I; ++i) {
            const int64_t at = (i0 + i) * stride + u;
            const Vec<T> x = load<T>(e.x[a] + at);
            Vec<T> t{}, s{}, hx{}, q = w * x;
            if constexpr (Second) {
                hx = load<T>(e.hx[a] + at);
                q = w * hx + hw * x;
            }
#pragma GCC unroll 8
            for (int k = 0; k < D3; ++k) {
                const int c = ((i0 + i) * D3 + k) * EDGES + a;
                t += gk[k] * m[c];
                if constexpr (Second) s += gk[k] * n[c];
                moments[i][k] += q * gk[k];
            }
            const Vec<T> dx = load<T>(e.dx[a] + at);
            if constexpr (Second) {
                dw += hx * t + x * s;
                store<T>(e.dx[a] + at, dx + w * s + hw * t);
            } else {
                dw += x * t;
                store<T>(e.dx[a] + at, dx + w * t);
            }
        }
        if (put == Put::stream)
            stream<T>(e.dw[a] + u, dw);
        else
            store<T>(e.dw[a] + u, dw);
    }
    constexpr int count = I * D3;
    Vec<T>* const flat = &moments[0][0];
#pragma GCC unroll 8
    for (int from = 0; from < count; from += L) {
        const int some = count - from < L ? count - from : L;
        const Vec<T> total = sums<T>(flat + from, some);
#pragma GCC unroll 64
        for (int c = 0; c < some; ++c) dm[(i0 * D3 + from + c) * EDGES + a] = total[reversed<T>(c)];
    }
}

// dx is added to, dw is added to where the block is not the first of its path, dm is written.
template <class T, int D1, int D3, bool Second>
__attribute__((noinline)) void backward_block(const Edges<T>& e, const T* m, const T* n, int64_t channels, const T* g,
                                              T* dm, Put put) {
    constexpr int fit = (REGISTERS * 3 / 4 - D3) / D3, I = fit < 1 ? 1 : fit > D1 ? D1 : fit, rest = D1 % I;
    if (I < D1 && put == Put::stream) put = Put::store;
    for (int a = 0; a < e.count; ++a) {
        int i = 0;
        for (; i + I <= D1; i += I)
            backward_rows<T, D3, I, Second>(e, a, i, m, n, channels, g, dm, i > 0 ? Put::add : put);
        if constexpr (rest > 0) backward_rows<T, D3, rest, Second>(e, a, i, m, n, channels, g, dm, Put::add);
    }
}

template <class T>
using Forward = void (*)(const Edges<T>&, const T*, const T*, int64_t, T*);
template <class T>
using Backward = void (*)(const Edges<T>&, const T*, const T*, int64_t, const T*, T*, Put);

template <class T, bool Second>
Forward<T> forward_of(int d1, int d3) {
#define EQK_ROW(d)                                                                                      \
    {                                                                                                   \
        forward_block<T, d, 1, Second>, forward_block<T, d, 3, Second>, forward_block<T, d, 5, Second>, \
            forward_block<T, d, 7, Second>                                                              \
    }
    static constexpr Forward<T> table[4][4] = {EQK_ROW(1), EQK_ROW(3), EQK_ROW(5), EQK_ROW(7)};
#undef EQK_ROW
    return table[d1 / 2][d3 / 2];
}

template <class T, bool Second>
Backward<T> backward_of(int d1, int d3) {
#define EQK_ROW(d)                                                                                         \
    {                                                                                                      \
        backward_block<T, d, 1, Second>, backward_block<T, d, 3, Second>, backward_block<T, d, 5, Second>, \
            backward_block<T, d, 7, Second>                                                                \
    }
    static constexpr Backward<T> table[4][4] = {EQK_ROW(1), EQK_ROW(3), EQK_ROW(5), EQK_ROW(7)};
#undef EQK_ROW
    return table[d1 / 2][d3 / 2];
}

}  // namespace EQK_TARGET
}  // namespace eqk
