// The value alone: z[receiver] = sum over its edges of C w x y, path by path over a chunk of edges.
//
// A receiver's sum of a path and a few vectors of channels stays in registers over its edges and is written once, in
// the order outside. Weights are read once, where they are, from memory: while a chunk is summed, those of the next
// one are asked for, row after row, as many lines with each product as it reads. Whatever misses the first-level cache
// waits behind them; so all paths of a few channels follow each other, and their rows of x stay in it.
//
// Weights of a table are formed first, a tile of a path for the whole chunk: edges that read the same rows follow each
// other, and these stay in registers.
#include <numeric>

#include "contract_table.inl"

namespace eqk {
namespace EQK_TARGET {

constexpr int64_t STREAMED = 32;        // edges of a chunk: their weights come in time
constexpr int64_t TABULATED = 2048;     // of a table: edges whose weights are formed together, at most
constexpr int64_t LEAST = 256;          // and at least: fewer would read a row each
constexpr int64_t M_BYTES = 768 << 10;  // of the M of so many edges: it stays in the second-level cache
constexpr int64_t AHEAD_ROWS = 20;      // rows from an edge's first to those that are fetched: an interval has two
constexpr int ROW_TILE = 2;  // vectors of channels that are formed at once: so many of all rows fit the registers

enum class Weights { by_edge, shared, table };

template <class T>
constexpr int64_t line = 64 / sizeof(T);  // numbers of a cache line

// Channels of which all paths follow each other: those of a chunk's x rows fit the first-level cache.
template <class T>
constexpr int64_t together = 2 * line<T>;

// Vectors of channels that a path's kernel sums at once.
template <class T>
constexpr int tile_of(int d3) {
    const int fit = (REGISTERS - 8) / d3, most = std::min(4, static_cast<int>(together<T> / lanes<T>));
    return fit >= most ? most : fit >= 2 ? 2 : 1;
}

// Rows that are read later, asked for line by line in their order.
template <class T>
struct Ahead {
    const T *const *rows = nullptr, *const *last = nullptr;
    const T *at = nullptr, *end = nullptr;
    int64_t length = 0;  // of a row
};

template <int Lines, class T>
EQK_INLINE void ask(Ahead<T>& a) {
    if (a.at >= a.end) {
        if (a.rows == a.last) return;
        a.at = *a.rows++, a.end = a.at + a.length;
    }
    for (int n = 0; n < Lines; ++n) __builtin_prefetch(a.at + n * line<T>, 0, 3);
    a.at += Lines * line<T>;
}

template <class T>
void convert_rows(const Sweep<T>& s, const T* from, T* to) {
#pragma omp for
    for (int64_t row = 0; row < s.a.x_rows; ++row)
        to_inside(s.p.x, s.p.mul_ir, from + row * s.p.x_dim, to + row * s.p.x_width);
}

// The edges [begin, end) of a chunk that go to one receiver; fresh: its first ones.
struct Stretch {
    int64_t receiver, begin, end;
    bool fresh;
};

// What the paths read of a chunk of edges.
template <class T>
struct Chunk {
    std::vector<Stretch> stretches;
    std::vector<const T*> x, w;               // rows by edge
    std::vector<int64_t> knot, sorted, ends;  // of a table; its edges in the order of their knots, and where each ends
    Buffer<T> b;                 // factors of its rows, in that order, (most, kMostRows), zero beyond the window
    Buffer<T> m, y;              // lanes of edges side by side, (m_size, lanes) for each `lanes` of edges
    Buffer<T> formed;            // of a table: weights of a tile, (most, together)
    std::vector<const T*> next;  // rows of weights of the next chunk
    Ahead<T> ahead;              // in them
    int64_t asked = 0;           // edges before this one were asked for
    int64_t m_size, most, edges = 0;
    int shift = 0;  // edges are in the order of knot >> shift: so many places as they are
    Chunk(const Lowered& p, int64_t most, int64_t rows)
        : x(most + 1),
          w(most + 1),
          knot(rows ? most : 0),
          sorted(rows ? most : 0),
          b(rows ? most * kMostRows : 0),
          m((most + lanes<T>)*p.m_size),
          y(lanes<T> * p.y_dim),
          formed(rows ? most * together<T> : 0),
          m_size(p.m_size),
          most(most) {
        while (rows >> shift > most) ++shift;
        ends.resize((rows >> shift) + 2);
    }
    const T* m_of(int64_t at) const {
        const uint64_t lane = static_cast<uint64_t>(at) % lanes<T>;
        return m.data() + (at - lane) * m_size + lane;
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

template <class T, int D3, int N>
EQK_INLINE void put(const Target<T>& to, bool fresh, int64_t receiver, int64_t u, const Vec<T> (&sum)[D3][N]) {
    constexpr int L = lanes<T>;
    T* const row = to.z + receiver * to.z_dim;
    if (TURNED<T> && to.mul_ir && to.dim == D3 && u + N * L <= to.mul) {
        for (int b = 0; b < N; ++b) {
            Vec<T> in[D3], out[D3];
            for (int k = 0; k < D3; ++k) in[k] = sum[k][b];
            turn<T, D3, false>(in, out, std::make_integer_sequence<int, D3>{});
            T* const at = row + (u + b * L) * D3;
            for (int k = 0; k < D3; ++k) store<T>(at + k * L, fresh ? out[k] : out[k] + load<T>(at + k * L));
        }
        return;
    }
    const int64_t by_channel = to.mul_ir ? to.dim : 1, by_component = to.mul_ir ? 1 : to.mul;
    for (int k = 0; k < D3; ++k)
        for (int b = 0; b < N; ++b)
            for (int l = 0; l < L && u + b * L + l < to.mul; ++l) {
                T& z = row[(u + b * L + l) * by_channel + (to.first + k) * by_component];
                z = fresh ? sum[k][b][l] : z + sum[k][b][l];
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

// Sums of all stretches for channels [u, u + N lanes); where N is 1, some may be padding.
template <class T, int D1, int D3, int N, Weights Of>
EQK_INLINE void sum_tile(Chunk<T>& c, const Block& b, const Target<T>& to, const Table<T>& table, const T* shared,
                         int64_t u) {
    constexpr int L = lanes<T>;
    const int64_t rest = b.mul - u;
    const auto weights = [&](const T* p) { return N > 1 || rest >= L ? load<T>(p) : load_some<T>(p, rest); };
    if constexpr (Of == Weights::table) {
        constexpr int at_once = N < ROW_TILE ? N : ROW_TILE;
        for (int n = 0; n < N; n += at_once)
            form_tile<T, at_once>(c, b, table, u + n * L, c.formed.data() + n * L, N * L);
    }
    Vec<T> w[N];
    if constexpr (Of == Weights::shared)
        for (int n = 0; n < N; ++n) w[n] = weights(shared + u + n * L);
    Ahead<T> ahead = c.ahead;
    for (const Stretch& run : c.stretches) {
        ask<T, D3, N>(to, run.receiver, u);
        Vec<T> sum[D3][N];
        for (int k = 0; k < D3; ++k)
            for (int n = 0; n < N; ++n) sum[k][n] = Vec<T>{};
        for (int64_t at = run.begin; at < run.end; ++at) {
            const T *x = c.x[at] + b.x + u, *m = c.m_of(at) + b.m * L;
            hide(x), hide(m);
            if constexpr (Of == Weights::by_edge) {
                const T* from = c.w[at] + b.column + u;
                hide(from);
                for (int n = 0; n < N; ++n) w[n] = weights(from + n * L);
                ask<N * L <= line<T> ? 1 : N * L / line<T>>(ahead);
            }
            if constexpr (Of == Weights::table) {
                const T* from = c.formed.data() + at * N * L;
                hide(from);
                for (int n = 0; n < N; ++n) w[n] = load<T>(from + n * L);
            }
#pragma GCC unroll 8
            for (int i = 0; i < D1; ++i) {
                Vec<T> p[N];
                for (int n = 0; n < N; ++n) {
                    p[n] = load<T>(x + i * b.padded + n * L);
                    if constexpr (Of != Weights::shared) p[n] *= w[n];
                }
#pragma GCC unroll 8
                for (int k = 0; k < D3; ++k)
                    for (int n = 0; n < N; ++n) sum[k][n] += p[n] * m[(i * D3 + k) * L];
            }
        }
        if constexpr (Of == Weights::shared)
            for (int k = 0; k < D3; ++k)
                for (int n = 0; n < N; ++n) sum[k][n] *= w[n];
        put<T, D3, N>(to, to.fresh && run.fresh, run.receiver, u, sum);
    }
    c.ahead = ahead;
}

// Sums of all stretches for channels [u, end).
template <class T, int D1, int D3, Weights Of>
__attribute__((noinline)) void sum_block(Chunk<T>& c, const Block& b, const Target<T>& to, const Table<T>& table,
                                         const T* shared, int64_t u, int64_t end) {
    constexpr int L = lanes<T>, N = tile_of<T>(D3);
    for (; u + N * L <= end; u += N * L) sum_tile<T, D1, D3, N, Of>(c, b, to, table, shared, u);
    for (; u < end; u += L) sum_tile<T, D1, D3, 1, Of>(c, b, to, table, shared, u);
}

template <class T>
using SumKernel = void (*)(Chunk<T>&, const Block&, const Target<T>&, const Table<T>&, const T*, int64_t, int64_t);

template <class T, Weights Of>
SumKernel<T> sum_of(int d1, int d3) {
#define EQK_ROW(d)                                                                                     \
    {                                                                                                  \
        sum_block<T, d, 1, Of>, sum_block<T, d, 3, Of>, sum_block<T, d, 5, Of>, sum_block<T, d, 7, Of> \
    }
    static constexpr SumKernel<T> table[4][4] = {EQK_ROW(1), EQK_ROW(3), EQK_ROW(5), EQK_ROW(7)};
#undef EQK_ROW
    return table[d1 / 2][d3 / 2];
}

// Ask for the first numbers of a row.
template <class T>
EQK_INLINE const T* fetch(const T* row) {
    for (int64_t n = 0; n < together<T>; n += line<T>) __builtin_prefetch(row + n, 0, 3);
    return row;
}

// The chunk's edges [begin, end) in the order of their knots, and the factors of the rows that they read.
template <class T>
void sort_by_knot(const Sweep<T>& s, Chunk<T>& c, int64_t begin, int64_t end) {
    const ContractArgs<T>& a = s.a;
    c.edges = end - begin;
    std::fill(c.ends.begin(), c.ends.end(), 0);
    for (int64_t at = 0; at < c.edges; ++at) ++c.ends[(c.knot[at] >> c.shift) + 1];
    std::partial_sum(c.ends.begin(), c.ends.end(), c.ends.begin());
    for (int64_t at = 0; at < c.edges; ++at) {
        const int64_t n = c.ends[c.knot[at] >> c.shift]++;
        c.sorted[n] = at;
        const T* const from = a.b ? a.b + s.edge(begin + at) * a.window : nullptr;
        for (int64_t r = 0; r < kMostRows; ++r) c.b[n * kMostRows + r] = from && r < a.window ? from[r] : T(0);
    }
}

// What comes after edge `end`, as far as it was not asked for: of the weights, a list.
template <class T>
void look_ahead(const Sweep<T>& s, Chunk<T>& c, int64_t end) {
    const ContractArgs<T>& a = s.a;
    const int64_t until = std::min(end + c.most, a.edges);
    for (int64_t at = end; a.y && at < until; ++at) fetch_row<0>(a.y + s.edge(at) * s.p.y_dim, s.p.y_dim);
    if (!a.w || a.shared_w || s.table()) return;
    c.asked = std::max(c.asked - (c.ahead.last - c.ahead.rows), end);
    c.next.clear();
    for (; c.asked < until; ++c.asked) c.next.push_back(a.w + s.edge(c.asked) * s.p.w_dim);
    c.ahead = {c.next.data(), c.next.data() + c.next.size(), c.ahead.at, c.ahead.end, s.p.w_dim};
}

// M of the chunk's edges [begin, end), `lanes` of them side by side, and the rows that they read.
template <class T>
void read_edges(const Sweep<T>& s, Chunk<T>& c, int64_t begin, int64_t end) {
    constexpr int L = lanes<T>;
    const Lowered& p = s.p;
    const ContractArgs<T>& a = s.a;
    for (int64_t from = begin; from < end; from += L) {
        const int count = static_cast<int>(std::min<int64_t>(L, end - from));
        for (int e = 0; e < L; ++e) {
            const int64_t edge = e < count ? s.edge(from + e) : 0, at = from - begin + e;
            for (int64_t j = 0; j < p.y_dim; ++j) c.y[j * L + e] = e < count && a.y ? a.y[edge * p.y_dim + j] : T(0);
            if (e >= count) continue;
            c.x[at] = a.x ? s.x.data() + a.x_index[edge] * p.x_width : s.zeros.data();
            if (a.x && s.far && from + e + c.most < a.edges)
                fetch_row<0>(s.x.data() + a.x_index[s.edge(from + e + c.most)] * p.x_width, p.x_width);
            if (s.table())
                c.knot[at] = a.knot[edge];
            else if (a.w && !a.shared_w)
                c.w[at] = fetch(a.w + edge * p.w_dim);
        }
        apply<T, L>(p.m_of_y, c.y.data(), c.m.data() + (from - begin) * p.m_size);
    }
}

// Channels [u, end) of a path.
template <class T>
void run_block(const Sweep<T>& s, Chunk<T>& c, const Block& b, int64_t u, int64_t end) {
    const ContractArgs<T>& a = s.a;
    const Table<T> table{a.w, s.p.w_dim, a.window, a.offsets};
    const Target<T> to{a.z + b.z_outside, s.p.z_dim, b.mul, b.z_dim, b.z_first, s.p.mul_ir, b.z_fresh};
    const bool absent = !a.w || (s.table() && !a.b);
    if (b.w < 0 || absent || a.shared_w) {
        const T* const row = b.w < 0 ? s.fixed.data() : absent ? s.zeros.data() : a.w + b.column;
        sum_of<T, Weights::shared>(b.d1, b.d3)(c, b, to, table, row, u, end);
    } else if (s.table()) {
        sum_of<T, Weights::table>(b.d1, b.d3)(c, b, to, table, nullptr, u, end);
    } else {
        sum_of<T, Weights::by_edge>(b.d1, b.d3)(c, b, to, table, nullptr, u, end);
    }
}

template <class T>
void run_chunk(const Sweep<T>& s, Chunk<T>& c) {
    int64_t widest = 0;
    for (const Block& b : s.p.blocks) widest = std::max(widest, b.mul);
    const int64_t step = s.table() ? widest : together<T>;
    for (int64_t u = 0; u < widest; u += step)
        for (const Block& b : s.p.blocks)
            if (u < b.mul) run_block(s, c, b, u, std::min(b.mul, u + step));
}

// Receivers [first, last), in chunks of edges.
template <class T>
void run_receivers(const Sweep<T>& s, Chunk<T>& c, int64_t first, int64_t last) {
    const ContractArgs<T>& a = s.a;
    if (!s.p.z_covered) std::fill_n(a.z + first * s.p.z_dim, (last - first) * s.p.z_dim, T(0));
    int64_t begin = s.begin(first), end = begin;
    const auto finish = [&] {
        look_ahead(s, c, end);
        read_edges(s, c, begin, end);
        if (s.table()) sort_by_knot(s, c, begin, end);
        run_chunk(s, c);
        c.stretches.clear();
        begin = end;
    };
    // Receivers are cut by their own edges alone, so that their sums have the same bits in any chunk.
    for (int64_t r = first; r < last; ++r) {
        do {
            const int64_t stop = std::min(s.begin(r + 1), end + c.most);
            if (stop - begin > c.most) finish();
            c.stretches.push_back({r, end - begin, stop - begin, end == s.begin(r)});
            end = stop;
        } while (end < s.begin(r + 1));
    }
    finish();
}

// Edges of a chunk.
template <class T>
int64_t most_edges(const Sweep<T>& s) {
    const int64_t each = std::max<int64_t>(1, s.p.m_size) * int64_t(sizeof(T));
    const int64_t most = s.table() ? std::clamp(M_BYTES / each, LEAST, TABULATED) : STREAMED;
    return std::clamp<int64_t>(s.a.edges, 1, most);
}

template <class T>
void contract_value(Sweep<T>& s, int threads) {
    const ContractArgs<T>& a = s.a;
    const int64_t most = most_edges(s);
    std::vector<Chunk<T>> chunks;
    for (int n = 0; n < threads; ++n) chunks.emplace_back(s.p, most, s.table() ? a.w_rows : 0);
    const int64_t count = static_cast<int64_t>(s.groups.size()) - 1;
    const int64_t run = std::max<int64_t>(1, count / ((s.table() ? 2 : 8) * threads));
    const int64_t runs = (count + run - 1) / run;
#pragma omp parallel num_threads(threads)
    {
        if (s.x.size()) convert_rows(s, a.x, s.x.data());
#pragma omp for schedule(dynamic)
        for (int64_t n = 0; n < runs; ++n)
            run_receivers(s, chunks[omp_get_thread_num()], s.groups[n * run], s.groups[std::min(count, (n + 1) * run)]);
    }
}

}  // namespace EQK_TARGET
}  // namespace eqk
