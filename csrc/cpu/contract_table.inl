// Weights from a table: w[u] = sum_c b[c] row_c[u], the rows at `offsets` from the edge's knot. They are formed for a
// path just before its blocks run and stay in the first-level cache; nothing of size edges x weights is kept.
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

// The rows' gradients of a batch's edges, each thread for the columns that it owns.
template <class T>
void add_rows(const Sweep<T>& s, int64_t begin, int64_t end) {
    const int64_t thread = omp_get_thread_num(), threads = omp_get_num_threads();
    for (const Block& b : s.p.blocks) {
        if (!b.first || b.w < 0) continue;
        const int64_t vectors = b.padded / lanes<T>;
        const int64_t from = vectors * thread / threads * lanes<T>;
        const int64_t to = std::min(b.mul, vectors * (thread + 1) / threads * lanes<T>);
        for (int64_t at = begin; from < to && at < end; ++at) {
            const T* const dw = s.dw_edges.data() + (at - begin) * s.dw_kept() + b.w;
            spread_row(s, s.edge(at), b, from, to, dw, dw + s.p.w_width);
        }
    }
}

}  // namespace EQK_TARGET
}  // namespace eqk
