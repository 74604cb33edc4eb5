// Weights from a table: w[u] = sum_c b[c] row_c[u], the rows at `offsets` from the edge's knot. They are formed for a
// path just before its blocks run and stay in the first-level cache; nothing of size edges x weights is kept.
#pragma once

#include "contract_state.inl"

namespace eqk {
namespace EQK_TARGET {

// The first row at a path's first column (the others lie `steps` behind it) and the factors; null: zero.
template <class T>
struct Window {
    const T *row, *factor;
    explicit operator bool() const { return row && factor; }
};

// to[u] (+)= sum_c factor[c] row_c[u] for u < mul, then zero up to `padded`.
template <class T, int W, bool Add>
EQK_INLINE void form_rows(const Window<T>& from, const int64_t* steps, int64_t mul, int64_t padded, T* to) {
    constexpr int L = lanes<T>;
    const T* const row = from.row;
    T f[W];
    for (int c = 0; c < W; ++c) f[c] = from.factor[c];
    int64_t u = 0;
    for (; u + L <= mul; u += L) {
        Vec<T> total = load<T>(row + u) * f[0];
        if constexpr (Add) total += load<T>(to + u);
#pragma GCC unroll 8
        for (int c = 1; c < W; ++c) total += load<T>(row + steps[c] + u) * f[c];
        store<T>(to + u, total);
    }
    for (; u < mul; ++u) {
        T total = Add ? to[u] : T(0);
        for (int c = 0; c < W; ++c) total += row[steps[c] + u] * f[c];
        to[u] = total;
    }
    for (; u < padded; ++u) to[u] = T(0);
}

// db[c] += sum_u dw[u] row_c[u].
template <class T, int W>
EQK_INLINE void dot_rows(const T* row, const int64_t* steps, int64_t mul, const T* dw, T* db) {
    constexpr int L = lanes<T>;
    Vec<T> total[W];
    for (int c = 0; c < W; ++c) total[c] = Vec<T>{};
    int64_t u = 0;
    for (; u + L <= mul; u += L) {
        const Vec<T> d = load<T>(dw + u);
#pragma GCC unroll 8
        for (int c = 0; c < W; ++c) total[c] += load<T>(row + steps[c] + u) * d;
    }
    T rest[W] = {};
    for (; u < mul; ++u)
        for (int c = 0; c < W; ++c) rest[c] += row[steps[c] + u] * dw[u];
    for (int c = 0; c < W; ++c) db[c] += sum<T>(total[c]) + rest[c];
}

// row_c[u] += factor[c] dw[u]: the columns of a path, or a thread's share of them.
template <class T, int W>
EQK_INLINE void spread_rows(const T* factor, const int64_t* steps, int64_t mul, const T* dw, T* row) {
    constexpr int L = lanes<T>;
    for (int c = 0; c < W; ++c) {
        T* const to = row + steps[c];
        const T f = factor[c];
        int64_t u = 0;
        for (; u + L <= mul; u += L) store<T>(to + u, load<T>(to + u) + load<T>(dw + u) * f);
        for (; u < mul; ++u) to[u] += dw[u] * f;
    }
}

// The three for a window that is known when the program runs.
template <class T>
struct WindowKernels {
    void (*form)(const Window<T>&, const int64_t* steps, int64_t mul, int64_t padded, T* to);
    void (*add)(const Window<T>&, const int64_t* steps, int64_t mul, int64_t padded, T* to);
    void (*dot)(const T* row, const int64_t* steps, int64_t mul, const T* dw, T* db);
    void (*spread)(const T* factor, const int64_t* steps, int64_t mul, const T* dw, T* row);
};

template <class T, int W>
constexpr WindowKernels<T> window_kernels{
    [](const Window<T>& f, const int64_t* s, int64_t m, int64_t p, T* to) { form_rows<T, W, false>(f, s, m, p, to); },
    [](const Window<T>& f, const int64_t* s, int64_t m, int64_t p, T* to) { form_rows<T, W, true>(f, s, m, p, to); },
    [](const T* row, const int64_t* s, int64_t m, const T* dw, T* db) { dot_rows<T, W>(row, s, m, dw, db); },
    [](const T* f, const int64_t* s, int64_t m, const T* dw, T* row) { spread_rows<T, W>(f, s, m, dw, row); },
};

template <class T>
const WindowKernels<T>& window_kernels_of(int64_t window) {
    static constexpr WindowKernels<T> table[kMostRows] = {
        window_kernels<T, 1>, window_kernels<T, 2>, window_kernels<T, 3>, window_kernels<T, 4>,
        window_kernels<T, 5>, window_kernels<T, 6>, window_kernels<T, 7>, window_kernels<T, 8>,
    };
    return table[window - 1];
}

// w and hw of a path for a block of edges: w = b rows, hw = hb rows + b (tangents of the rows).
template <class T>
void form_weights(const Sweep<T>& s, Worker<T>& t, const Block& b, const int64_t* ids, int count) {
    const ContractArgs<T>& a = s.a;
    const WindowKernels<T>& kernels = window_kernels_of<T>(a.window);
    for (int e = 0; e < count; ++e) {
        const int64_t row = a.knot[ids[e]] * s.p.w_dim + b.column, at = ids[e] * a.window;
        const T *const rows = a.w ? a.w + row : nullptr, *const tangents = a.hw ? a.hw + row : nullptr;
        const T *const f = a.b ? a.b + at : nullptr, *const h = a.hb ? a.hb + at : nullptr;
        T *const w = t.w.data() + e * s.p.w_width + b.w, *const hw = t.hw.data() + e * s.p.w_width + b.w;
        const auto form = [&](Window<T> first, Window<T> second, T* to) {
            if (!first) std::swap(first, second);
            if (!first)
                std::fill_n(to, b.padded, T(0));
            else
                kernels.form(first, s.steps, b.mul, b.padded, to);
            if (second) kernels.add(second, s.steps, b.mul, b.padded, to);
        };
        form({rows, f}, {}, w);
        if (a.second) form({rows, h}, {tangents, f}, hw);
    }
}

// Columns [from, to) of a path of one edge, into the gradients of its rows.
template <class T>
void spread_row(const Sweep<T>& s, int64_t edge, const Block& b, int64_t from, int64_t to, const T* dw,
                const T* plain) {
    const ContractArgs<T>& a = s.a;
    const WindowKernels<T>& kernels = window_kernels_of<T>(a.window);
    T* const row = a.dw + a.knot[edge] * s.p.w_dim + b.column + from;
    if (a.b) kernels.spread(a.b + edge * a.window, s.steps, to - from, dw + from, row);
    if (a.hb) kernels.spread(a.hb + edge * a.window, s.steps, to - from, plain + from, row);
}

// From dw (and the plain dw p of a form with tangents) of a path: db = dw rows + p tangents, and, unless they are kept
// for later, the rows' gradients b dw + hb p.
template <class T>
void spread_weights(const Sweep<T>& s, Worker<T>& t, const Block& b, const Edges<T>& r, const int64_t* ids, bool kept) {
    const ContractArgs<T>& a = s.a;
    const WindowKernels<T>& kernels = window_kernels_of<T>(a.window);
    for (int e = 0; e < r.count; ++e) {
        const int64_t row = a.knot[ids[e]] * s.p.w_dim + b.column;
        const T *const dw = r.dw[e] + b.w, *const plain = a.second ? r.plain[e] + b.w : nullptr;
        T* const db = t.db.data() + e * kMostRows;
        if (a.db && a.w) kernels.dot(a.w + row, s.steps, b.mul, dw, db);
        if (a.db && a.hw) kernels.dot(a.hw + row, s.steps, b.mul, plain, db);
        if (a.dw && !kept) spread_row(s, ids[e], b, 0, b.mul, dw, plain);
    }
}

// Columns of the table whose gradients one thread adds up: in a copy of those of all rows, which stays in the
// first-level cache, where the rows themselves are too far apart.
template <class T>
constexpr int COLUMNS = 128 / EQK_VECTOR_BYTES;  // vectors

template <class T, int W, int N>
void add_edges(const Sweep<T>& s, int64_t begin, int64_t end, int64_t first, T* rows) {
    constexpr int L = lanes<T>;
    const ContractArgs<T>& a = s.a;
    for (int64_t at = begin; at < end; ++at) {
        const int64_t edge = s.edge(at);
        const T* const dw = s.dw_edges.data() + (at - begin) * s.dw_kept() + first;
        const T *const f = a.b ? a.b + edge * W : nullptr, *const h = a.hb ? a.hb + edge * W : nullptr;
        Vec<T> d[N], plain[N]{};
        for (int n = 0; n < N; ++n) d[n] = load<T>(dw + n * L);
        for (int n = 0; h && n < N; ++n) plain[n] = load<T>(dw + s.p.w_width + n * L);
#pragma GCC unroll 8
        for (int c = 0; c < W; ++c) {
            T* const to = rows + (a.knot[edge] + a.offsets[c]) * N * L;
            for (int n = 0; n < N; ++n) {
                Vec<T> sum = load<T>(to + n * L);
                if (f) sum += d[n] * f[c];
                if (h) sum += plain[n] * h[c];
                store<T>(to + n * L, sum);
            }
        }
    }
}

// N vectors of columns of a path, from `u` on; the last may be padding in part.
template <class T, int W, int N>
void add_columns(const Sweep<T>& s, int64_t begin, int64_t end, const Block& b, int64_t u, T* rows) {
    const int64_t count = std::min<int64_t>(N * lanes<T>, b.mul - u);
    T* const dw = s.a.dw + b.column + u;
    for (int64_t row = 0; row < s.a.w_rows; ++row) {
        std::copy_n(dw + row * s.p.w_dim, count, rows + row * N * lanes<T>);
        std::fill_n(rows + row * N * lanes<T> + count, N * lanes<T> - count, T(0));
    }
    add_edges<T, W, N>(s, begin, end, b.w + u, rows);
    for (int64_t row = 0; row < s.a.w_rows; ++row) std::copy_n(rows + row * N * lanes<T>, count, dw + row * s.p.w_dim);
}

// The rows' gradients of a batch's edges, in their order, each thread for some columns.
template <class T>
void add_rows(const Sweep<T>& s, Worker<T>& t, int64_t begin, int64_t end) {
    constexpr int64_t width = COLUMNS<T> * lanes<T>;
    using Add = void (*)(const Sweep<T>&, int64_t, int64_t, const Block&, int64_t, T*);
#define EQK_ADD(N)                                                                                                    \
    {                                                                                                                 \
        add_columns<T, 1, N>, add_columns<T, 2, N>, add_columns<T, 3, N>, add_columns<T, 4, N>, add_columns<T, 5, N>, \
            add_columns<T, 6, N>, add_columns<T, 7, N>, add_columns<T, 8, N>                                          \
    }
    static constexpr Add wide[kMostRows] = EQK_ADD(COLUMNS<T>), narrow[kMostRows] = EQK_ADD(1);
#undef EQK_ADD
#pragma omp for schedule(dynamic)
    for (size_t n = 0; n < s.columns.size(); ++n) {
        const auto [block, u] = s.columns[n];
        const Block& b = s.p.blocks[block];
        const Add add = (u + width <= b.padded ? wide : narrow)[s.a.window - 1];
        const int64_t step = u + width <= b.padded ? width : lanes<T>;
        for (int64_t v = u; v < std::min(b.padded, u + width); v += step) add(s, begin, end, b, v, t.rows.data());
    }
}

}  // namespace EQK_TARGET
}  // namespace eqk
