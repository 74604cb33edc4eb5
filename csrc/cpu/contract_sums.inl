// The inner loops of the value: sums over the edges of a chunk, for one path or two and a few vectors of channels.
#pragma once

#include <vector>

#include "contract_table.inl"

namespace eqk {
namespace EQK_TARGET {

constexpr int64_t AHEAD_ROWS = 20;  // rows from an edge's first to those that are fetched: an interval has two
constexpr int MOST_SUMS = REGISTERS == 32 ? 10 : 4;  // components of two paths that one kernel sums
constexpr int ROW_TILE = 2;  // vectors of channels that are formed at once: so many of all rows fit the registers

enum class Weights { by_edge, shared, table };

// Channels of which all paths follow each other: those of a chunk's x rows fit the first-level cache.
template <class T>
constexpr int64_t together = 2 * line<T>;

constexpr int UNIT = 0;  // in place of d1: M is one number times the unit matrix

// Vectors of channels that a path's kernel sums at once.
template <class T>
constexpr int tile_of(int d1, int d3) {
    const int most = std::min(4, static_cast<int>(together<T> / lanes<T>));
    const int used = d1 == UNIT ? 2 : REGISTERS == 16 && d3 == 5 ? 6 : 8;  // registers that hold no sums
    const int fit = (REGISTERS - used) / d3;
    return fit >= most ? most : fit >= 2 ? 2 : 1;
}

// Rows that are read later, asked for line by line in their order.
template <class T>
struct Ahead {
    struct Row {
        const T *at, *end;
    };
    const Row *rows = nullptr, *last = nullptr;
    const T *at = nullptr, *end = nullptr;
};

// The next lines; `at` and `end` are those of the row in registers.
template <class T>
EQK_INLINE void ask(Ahead<T>& rows, const T*& at, const T*& end, int lines) {
    if (at >= end) {
        Ahead<T>* a = &rows;
        hide(a);
        if (a->rows == a->last) return;
        at = a->rows->at, end = a->rows->end, ++a->rows;
    }
    do {
        __builtin_prefetch(at, 0, 3);
        at += line<T>;
    } while (--lines > 0);
}

// The edges [begin, end) of a chunk that go to one receiver; fresh: its first ones.
struct Stretch {
    int64_t receiver, begin, end;
    bool fresh;
};

// What the paths read of an edge.
template <class T>
struct EdgeRows {
    const T *x, *w, *m;  // m: its lane among those side by side
};

// What the paths read of a chunk of edges.
template <class T>
struct Chunk {
    std::vector<Stretch> stretches;
    std::vector<EdgeRows<T>> rows;
    std::vector<int64_t> knot, sorted, ends;  // of a table; its edges in the order of their knots, and where each ends
    Buffer<T> b;       // factors of its rows, in that order, (most, kMostRows), zero beyond the window
    Buffer<T> m, y;    // lanes of edges side by side, (m_size, lanes) for each `lanes` of edges
    Buffer<T> formed;  // of a table: weights of a tile, (most, together) of each path
    std::vector<typename Ahead<T>::Row> next;  // what edges of the next chunk read: weights, and x if that is far
    Ahead<T> ahead;                            // in them
    int64_t asked = 0;                         // edges before this one were asked for
    int64_t most, edges = 0;
    int shift = 0;  // edges are in the order of knot >> shift: so many places as they are
    Chunk(const Lowered& p, int64_t most, int64_t table)
        : rows(most),
          knot(table ? most : 0),
          sorted(table ? most : 0),
          b(table ? most * kMostRows : 0),
          m((most + lanes<T>)*p.m_size),
          y(lanes<T> * p.y_dim),
          formed(table ? 2 * most * together<T> : 0),
          most(most) {
        while (table >> shift > most) ++shift;
        ends.resize((table >> shift) + 2);
    }
};

// Rows of weights, of which an edge reads those at `offsets` from its knot.
template <class T>
struct Table {
    const T* first;
    int64_t w_dim, window;
    const int64_t* offsets;
};

// Where the sums of one path's rectangle are written: a segment of z's rows.
template <class T>
struct Target {
    T* z;
    int64_t z_dim, mul, dim, first;  // columns of a row; channels and components of the segment; the first component
    bool mul_ir, fresh;
};

// Number by number: what is no vector of channels.
template <class T, int D3, int N>
__attribute__((noinline)) void put_some(const Target<T>& to, bool fresh, int64_t receiver, int64_t u,
                                        const Vec<T> (&sum)[D3][N]) {
    constexpr int L = lanes<T>;
    T* const row = to.z + receiver * to.z_dim;
    const int64_t by_channel = to.mul_ir ? to.dim : 1, by_component = to.mul_ir ? 1 : to.mul;
    for (int k = 0; k < D3; ++k)
        for (int b = 0; b < N; ++b)
            for (int l = 0; l < L && u + b * L + l < to.mul; ++l) {
                T& z = row[(u + b * L + l) * by_channel + (to.first + k) * by_component];
                z = fresh ? sum[k][b][l] : z + sum[k][b][l];
            }
}

template <class T, int D3, int N>
EQK_INLINE void put(const Target<T>& to, bool fresh, int64_t receiver, int64_t u, const Vec<T> (&sum)[D3][N]) {
    constexpr int L = lanes<T>;
    if (!to.mul_ir || to.dim != D3 || u + N * L > to.mul) {
        Vec<T> kept[D3][N];
        for (int k = 0; k < D3; ++k)
            for (int b = 0; b < N; ++b) kept[k][b] = sum[k][b];
        return put_some<T, D3, N>(to, fresh, receiver, u, kept);
    }
    T* const row = to.z + receiver * to.z_dim;
    for (int b = 0; b < N; ++b) {
        Vec<T> in[D3], out[D3];
        for (int k = 0; k < D3; ++k) in[k] = sum[k][b];
        join_components<T, D3>(in, out);
        T* const at = row + (u + b * L) * D3;
        for (int k = 0; k < D3; ++k) store<T>(at + k * L, fresh ? out[k] : out[k] + load<T>(at + k * L));
    }
}

// Ask for the lines that `put` writes, or add to, while their sum is made: a store that waits holds up all others.
template <class T, int D3, int N>
EQK_INLINE void ask(const Target<T>& to, int64_t receiver, int64_t u) {
    constexpr int L = lanes<T>;
    const T* const row = to.z + receiver * to.z_dim;
    for (int k = 0; k < D3; ++k)
        for (int b = 0; b < N; ++b) {
            const int64_t at = to.mul_ir ? u * to.dim + (k * N + b) * L : (to.first + k) * to.mul + u + b * L;
            __builtin_prefetch(row + at, 1, 3);
        }
}

// The first `count` numbers of a row, as a vector.
template <class T>
EQK_INLINE Vec<T> load_some(const T* p, int64_t count) {
    Vec<T> v{};
    for (int l = 0; l < count; ++l) v[l] = p[l];
    return v;
}

// The weights of all edges, for channels [u, u + N lanes) of a path, `step` numbers between those of two edges; where N
// is 1, some may be padding.
template <class T, int N>
__attribute__((noinline)) void form_tile(const Chunk<T>& c, const Block& b, const Table<T>& table, int64_t u, T* to,
                                         int64_t step) {
    constexpr int L = lanes<T>;
    const int64_t rest = b.mul - u;
    Vec<T> row[kMostRows][N] = {};  // of the knot
    int64_t knot = -1;
    for (int64_t n = 0; n < c.edges; ++n) {
        const int64_t at = c.sorted[n];
        if (c.knot[at] != knot) {
            knot = c.knot[at];
            const T* const ahead = table.first + (knot + AHEAD_ROWS) * table.w_dim + b.column + u;
            for (int k = 0; k < N; ++k) {
                __builtin_prefetch(ahead + k * L, 0, 3);
                __builtin_prefetch(ahead + table.w_dim + k * L, 0, 3);
            }
#pragma GCC unroll 8
            for (int r = 0; r < kMostRows; ++r) {
                const int64_t at_row = knot + (r < table.window ? table.offsets[r] : 0);
                const T* const from = table.first + at_row * table.w_dim + b.column + u;
                for (int k = 0; k < N; ++k)
                    row[r][k] = N > 1 || rest >= L ? load<T>(from + k * L) : load_some<T>(from, rest);
            }
        }
        const T* factor = c.b.data() + n * kMostRows;
        hide(factor);
        Vec<T> w[N];
        for (int k = 0; k < N; ++k) w[k] = row[0][k] * factor[0];
#pragma GCC unroll 8
        for (int r = 1; r < kMostRows; ++r)
            for (int k = 0; k < N; ++k) w[k] += row[r][k] * factor[r];
        for (int k = 0; k < N; ++k) store<T>(to + at * step + k * L, w[k]);
    }
}

// A path, or a rectangle of it, and the rows that it adds to.
template <class T>
struct Part {
    const Block* block;
    Target<T> to;
    const T* shared;  // its weights, where edges share them
};

// The first weights of a row, of `rest` that are left.
template <class T, int N>
EQK_INLINE void read_weights(const T* from, int64_t rest, Vec<T> (&w)[N]) {
    for (int n = 0; n < N; ++n)
        w[n] = N > 1 || rest >= lanes<T> ? load<T>(from + n * lanes<T>) : load_some<T>(from, rest);
}

template <class T, int D3, int N>
EQK_INLINE void clear(Vec<T> (&sum)[D3][N]) {
    for (int k = 0; k < D3; ++k)
        for (int n = 0; n < N; ++n) sum[k][n] = Vec<T>{};
}

// Component i of a path: sum[k] += M[i,k] p.
template <class T, int D3, int N>
EQK_INLINE void add_component(const T* m, int i, const Vec<T> (&p)[N], Vec<T> (&sum)[D3][N]) {
#pragma GCC unroll 8
    for (int k = 0; k < D3; ++k)
        for (int n = 0; n < N; ++n) sum[k][n] += p[n] * m[(i * D3 + k) * lanes<T>];
}

template <class T, int D3, int N>
EQK_INLINE void put_sum(const Part<T>& part, bool shared, const Stretch& run, int64_t u, Vec<T> (&sum)[D3][N]) {
    if (shared) {
        Vec<T> w[N];
        read_weights<T>(part.shared + u, part.block->mul - u, w);
        for (int k = 0; k < D3; ++k)
            for (int n = 0; n < N; ++n) sum[k][n] *= w[n];
    }
    put<T, D3, N>(part.to, part.to.fresh && run.fresh, run.receiver, u, sum);
}

// Sums of all stretches for channels [u, u + N lanes) of a path, and of one more that reads the same x unless E3 is 0:
// the sums of a small path alone would wait for each other. Where N is 1, some channels may be padding.
template <class T, int D1, int D3, int E3, int N, Weights Of>
EQK_INLINE void sum_tile(Chunk<T>& c, const Part<T>* parts, const Table<T>& table, int lines, int64_t u) {
    constexpr int L = lanes<T>;
    constexpr bool again = Of != Weights::shared && D1 > 1 && N > 1 && N * (D3 + 2) >= REGISTERS - 2 && E3 == 0;
    const Block &b = *parts[0].block, &other = *parts[E3 > 0].block;
    const int64_t rest = b.mul - u, step = b.padded, formed = c.most * N * L;
    if constexpr (Of == Weights::table) {
        constexpr int at_once = N < ROW_TILE ? N : ROW_TILE;
        for (int part = 0; part < (E3 > 0 ? 2 : 1); ++part)
            for (int n = 0; n < N; n += at_once)
                form_tile<T, at_once>(c, *parts[part].block, table, u + n * L, c.formed.data() + part * formed + n * L,
                                      N * L);
    }
    const int some = static_cast<int>((lines * N * L + together<T> - 1) / together<T>);
    const int64_t x_first = b.x + u, w_first = b.column + u, m_first = b.m * L;
    const int64_t w_other = other.column + u, m_other = other.m * L;
    for (const Stretch& run : c.stretches) {
        ask<T, D3, N>(parts[0].to, run.receiver, u);
        if constexpr (E3 > 0) ask<T, E3, N>(parts[1].to, run.receiver, u);
        Vec<T> sum[D3][N], more[E3 > 0 ? E3 : 1][N];
        clear<T>(sum), clear<T>(more);
        const T *asked = c.ahead.at, *asked_end = c.ahead.end, *at_formed = c.formed.data() + run.begin * N * L;
        for (const EdgeRows<T>*at = c.rows.data() + run.begin, *end = c.rows.data() + run.end; at < end; ++at) {
            const T *x = at->x + x_first, *m = at->m + m_first, *m_more = at->m + m_other;
            hide(x), hide(m), hide(m_more);
            Vec<T> w[N], w_more[N];
            const T* from = Of == Weights::by_edge ? at->w + w_first : at_formed;
            if constexpr (Of == Weights::by_edge) {
                const T* from_more = at->w + w_other;
                hide(from), hide(from_more);
                read_weights<T>(from, rest, w);
                if constexpr (E3 > 0) read_weights<T>(from_more, rest, w_more);
                ask(c.ahead, asked, asked_end, some);
            }
            if constexpr (Of == Weights::table) {
                read_weights<T>(from, L, w);
                if constexpr (E3 > 0) read_weights<T>(at_formed + formed, L, w_more);
                at_formed += N * L;
            }
            if constexpr (D1 == UNIT) {
                for (int n = 0; n < N; ++n) {
                    const Vec<T> p = Of == Weights::shared ? spread<T>(*m) : w[n] * *m;
                    for (int k = 0; k < D3; ++k) sum[k][n] += p * load<T>(x + k * step + n * L);
                }
            }
#pragma GCC unroll 8
            for (int i = 0; i < D1; ++i) {
                if constexpr (again) {
                    hide(from);
                    read_weights<T>(from, L, w);
                }
                Vec<T> p[N], q[N];
                for (int n = 0; n < N; ++n) {
                    const Vec<T> xi = load<T>(x + i * step + n * L);
                    p[n] = Of == Weights::shared ? xi : xi * w[n];
                    if constexpr (E3 > 0) q[n] = Of == Weights::shared ? xi : xi * w_more[n];
                }
                add_component<T, D3>(m, i, p, sum);
                if constexpr (E3 > 0) add_component<T, E3>(m_more, i, q, more);
            }
        }
        c.ahead.at = asked, c.ahead.end = asked_end;
        put_sum<T>(parts[0], Of == Weights::shared, run, u, sum);
        if constexpr (E3 > 0) put_sum<T>(parts[1], Of == Weights::shared, run, u, more);
    }
}

// Sums of all stretches for channels [u, end).
template <class T, int D1, int D3, int E3, Weights Of>
__attribute__((noinline)) void sum_parts(Chunk<T>& c, const Part<T>* parts, const Table<T>& table, int lines, int64_t u,
                                         int64_t end) {
    constexpr int L = lanes<T>, N = tile_of<T>(D1, D3 + E3);
    for (; u + N * L <= end; u += N * L) sum_tile<T, D1, D3, E3, N, Of>(c, parts, table, lines, u);
    for (; u < end; u += L) sum_tile<T, D1, D3, E3, 1, Of>(c, parts, table, lines, u);
}

template <class T>
using SumKernel = void (*)(Chunk<T>&, const Part<T>*, const Table<T>&, int, int64_t, int64_t);

constexpr bool go_together(int d1, int d3, int e3) {
    return e3 == 0 || (d3 <= e3 && d3 + e3 <= MOST_SUMS && (d1 == 1 || (d1 > 1 && REGISTERS == 32)));
}

template <class T, Weights Of, int D1, int D3, int E3>
constexpr SumKernel<T> kernel_of() {
    if constexpr (go_together(D1, D3, E3))
        return sum_parts<T, D1, D3, E3, Of>;
    else
        return nullptr;
}

// The kernel of a path, e3 = 0, or of two.
template <class T, Weights Of>
SumKernel<T> sum_of(int d1, int d3, int e3) {
#define EQK_PAIRS(d, e)                                                                     \
    {kernel_of<T, Of, d, e, 0>(), kernel_of<T, Of, d, e, 1>(), kernel_of<T, Of, d, e, 3>(), \
     kernel_of<T, Of, d, e, 5>(), kernel_of<T, Of, d, e, 7>()}
#define EQK_ROW(d)                                                         \
    {                                                                      \
        EQK_PAIRS(d, 1), EQK_PAIRS(d, 3), EQK_PAIRS(d, 5), EQK_PAIRS(d, 7) \
    }
    static constexpr SumKernel<T> table[5][4][5] = {EQK_ROW(UNIT), EQK_ROW(1), EQK_ROW(3), EQK_ROW(5), EQK_ROW(7)};
#undef EQK_ROW
#undef EQK_PAIRS
    return table[(d1 + 1) / 2][d3 / 2][(e3 + 1) / 2];
}

}  // namespace EQK_TARGET
}  // namespace eqk
