// A matrix for every node, the sum of outer products over its edges: m[n][r, :] = sum_e a[e, r] h[e, :], and backward.
#include <omp.h>

#include <algorithm>

#include "buffer.hpp"
#include "modes.hpp"
#include "tiles.inl"

namespace eqk {
namespace EQK_TARGET {

#if EQK_VECTOR_BYTES == 64
constexpr int ROWS = 6;  // rows of a tile of sums that fit the registers
#else
constexpr int ROWS = 2;
#endif

// sum[r] = sum_n left[n][r] right[n], over `count` pairs.
template <class T, int R, class Tile, class Left, class Right>
EQK_INLINE void sum_outer(int64_t count, Left left, Right right, T* to, int64_t stride, bool add, Tile) {
    Tile sum[R];
    for (int r = 0; r < R; ++r) sum[r] = add ? Tile::at(to + r * stride) : Tile::zero();
    for (int64_t n = 0; n < count; ++n) {
        const Tile v = Tile::at(right(n));
        const T* const factors = left(n);
        for (int r = 0; r < R; ++r) sum[r].add(factors[r], v);
    }
    for (int r = 0; r < R; ++r) sum[r].put(to + r * stride);
}

template <class T>
void node_forward(const std::vector<ColumnRun>& runs, const OuterArgs<T>& s, int64_t node) {
    const int64_t* const edges = s.order + s.ptr[node];
    const int64_t count = s.ptr[node + 1] - s.ptr[node];
    T* const m = s.m + (node - s.first) * s.rows * s.width;
    for (const ColumnRun& run : runs) {
        const auto rows = [&](auto some, int64_t c) {
            const T* const a = s.a + run.from + c;
            T* const to = m + (run.to + c) * s.width;
            in_tiles<T>(s.width, [&](auto tile, int64_t u) {
                sum_outer<T, decltype(some)::value>(
                    count, [&](int64_t e) { return a + edges[e] * s.a_dim; },
                    [&](int64_t e) { return s.h + edges[e] * s.width + u; }, to + u, s.width, false, tile);
            });
        };
        int64_t c = 0;
        for (; c + ROWS <= run.count; c += ROWS) rows(std::integral_constant<int, ROWS>{}, c);
        for (; c < run.count; ++c) rows(std::integral_constant<int, 1>{}, c);
    }
}

// dh[e, :] += sum_r a[e, r] g[r, :]
template <class T>
void node_backward_h(const std::vector<ColumnRun>& runs, const OuterArgs<T>& s, const int64_t* edges, int64_t count,
                     const T* g, T* turned) {
    for (int64_t e = 0; e < count; e += ROWS) {
        const int64_t some = std::min<int64_t>(ROWS, count - e);
        for (const ColumnRun& run : runs) {
            // The factors of ROWS edges side by side, and zero for edges that are not there.
            for (int64_t c = 0; c < run.count; ++c)
                for (int64_t r = 0; r < ROWS; ++r)
                    turned[c * ROWS + r] = r < some ? s.a[edges[e + r] * s.a_dim + run.from + c] : T(0);
            in_tiles<T>(s.width, [&](auto tile, int64_t u) {
                using Tile = decltype(tile);
                Tile sum[ROWS];
                for (int r = 0; r < ROWS; ++r) sum[r] = Tile::zero();
                for (int64_t c = 0; c < run.count; ++c) {
                    const Tile v = Tile::at(g + (run.to + c) * s.width + u);
                    for (int r = 0; r < ROWS; ++r) sum[r].add(turned[c * ROWS + r], v);
                }
                for (int64_t r = 0; r < some; ++r) {
                    T* const to = s.dh + edges[e + r] * s.width + u;
                    Tile total = Tile::at(to);
                    total.add(T(1), sum[r]);
                    total.put(to);
                }
            });
        }
    }
}

// da[e, r] += sum of g[r, :] h[e, :], a few rows with a few edges at once.
template <class T>
void node_backward_a(const std::vector<ColumnRun>& runs, const OuterArgs<T>& s, const int64_t* edges, int64_t count,
                     const T* g) {
    constexpr int L = lanes<T>, E = L >= 16 ? 4 : L >= 4 ? 2 : 1, C = L / E;
    for (const ColumnRun& run : runs)
        for (int64_t c = 0; c < run.count; c += C)
            for (int64_t e = 0; e < count; e += E) {
                const T *rows[C], *others[E];
                for (int n = 0; n < C; ++n) rows[n] = g + (run.to + std::min(c + n, run.count - 1)) * s.width;
                for (int n = 0; n < E; ++n) others[n] = s.h + edges[std::min(e + n, count - 1)] * s.width;
                Vec<T> sum[L];
                for (int n = 0; n < L; ++n) sum[n] = Vec<T>{};
                int64_t u = 0;
                for (; u + L <= s.width; u += L)
                    for (int i = 0; i < C; ++i) {
                        const Vec<T> row = load<T>(rows[i] + u);
                        for (int j = 0; j < E; ++j) sum[i * E + j] += row * load<T>(others[j] + u);
                    }
                const Vec<T> total = sums<T>(sum, L);
                for (int i = 0; i < C && c + i < run.count; ++i)
                    for (int j = 0; j < E && e + j < count; ++j) {
                        T rest = 0;
                        for (int64_t v = u; v < s.width; ++v) rest += rows[i][v] * others[j][v];
                        s.da[edges[e + j] * s.a_dim + run.from + c + i] += total[reversed<T>(i * E + j)] + rest;
                    }
            }
}

// Every edge belongs to one node and every node to one thread: each sum has one order.
template <class T>
void outer(const std::vector<ColumnRun>& runs, const OuterArgs<T>& s) {
    const int threads = (s.ptr[s.last] - s.ptr[s.first]) * s.a_dim * s.width < 262144 ? 1 : s.threads;
    int64_t most = 0;
    for (const ColumnRun& run : runs) most = std::max(most, run.count);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        const Buffer<T> turned(s.dh ? most * ROWS : 0);
#pragma omp for schedule(dynamic)
        for (int64_t node = s.first; node < s.last; ++node) {
            const int64_t* const edges = s.order + s.ptr[node];
            const int64_t count = s.ptr[node + 1] - s.ptr[node];
            const T* const g = s.g + (node - s.first) * s.rows * s.width;
            if (s.m) node_forward(runs, s, node);
            if (s.da) node_backward_a(runs, s, edges, count, g);
            if (s.dh) node_backward_h(runs, s, edges, count, g, turned.data());
        }
    }
}

}  // namespace EQK_TARGET
}  // namespace eqk
