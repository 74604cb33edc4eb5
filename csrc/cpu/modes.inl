// Any connection mode, a row at a time. A path's channels meet in runs: one channel of one operand (the scalar) with a
// run of channels of the other (the lanes), or equal channels of both.
//
//   M[a,k] = sum_b C_abk s_b          s the scalar's components, once a run
//   z[k,c] += w[c] sum_a M[a,k] l[a,c]
// and backward with the cotangent g of z, h[k] = w g[k]:
//   dl[a,c] += sum_k M[a,k] h[k,c],  dM[a,k] = sum_c l[a,c] h[k,c],  dw[c] = sum M[a,k] l[a,c] g[k,c]
#include <omp.h>

#include <algorithm>

#include "buffer.hpp"
#include "mixing.inl"
#include "modes.hpp"
#include "nodes.inl"
#include "tiles.inl"
#include "turns.inl"

namespace eqk {
namespace EQK_TARGET {

constexpr int64_t CHUNKS = 64;  // pieces of the rows, whatever the threads: sums have one order

// One row, components outermost. `partial`: lanes<T> numbers an entry. Null: not read or not wanted.
template <class T>
struct CoupledRow {
    const T *x, *y, *w, *g;
    T *z, *dx, *dy, *dw;
    bool add_w;
    T *m, *dm, *partial;
};

template <class T, class Tile>
EQK_INLINE void run_forward(const Coupled& p, const T* m, const T* lane, int64_t stride, const T* w, T* z, Tile) {
    const size_t n = p.entries.size();
    for (size_t q = 0; q < n;) {
        const int k = p.entries[q].k;
        Tile sum = Tile::zero();
        for (; q < n && p.entries[q].k == k; ++q) sum.add(m[q], Tile::at(lane + p.entries[q].a * stride));
        if (w) sum = sum * Tile::at(w);
        T* const to = z + k * p.z_mul;
        for (int b = 0; b < Tile::packs; ++b) sum.v[b] += Tile::at(to).v[b];
        sum.put(to);
    }
}

template <class T, class Tile>
EQK_INLINE void run_backward(const Coupled& p, const CoupledRow<T>& r, const T* m, const T* lane, T* dlane,
                             int64_t stride, const T* w, T* dw, const T* g, bool dm, Tile) {
    const size_t n = p.entries.size();
    Tile total = Tile::zero();
    for (size_t q = 0; q < n;) {
        const int k = p.entries[q].k;
        const Tile gk = Tile::at(g + k * p.z_mul);
        const Tile hk = w ? gk * Tile::at(w) : gk;
        for (; q < n && p.entries[q].k == k; ++q) {
            const int64_t at = p.entries[q].a * stride;
            if (dlane) {
                Tile d = Tile::at(dlane + at);
                d.add(m[q], hk);
                d.put(dlane + at);
            }
            if (!dm && !dw) continue;
            const Tile l = Tile::at(lane + at);
            if (dm) {
                using Narrow = eqk::EQK_TARGET::Tile<T, Tile::n, 1>;
                T* const sums = r.partial + q * lanes<T>;
                Narrow s = Narrow::at(sums);
                for (int b = 0; b < Tile::packs; ++b) s.v[0] += l.v[b] * hk.v[b];
                s.put(sums);
            }
            if (dw) total.add(m[q], l * gk);
        }
    }
    if (!dw) return;
    if (r.add_w)
        for (int b = 0; b < Tile::packs; ++b) total.v[b] += Tile::at(dw).v[b];
    total.put(dw);
}

// The runs of one path, one operand's channels as lanes.
template <class T>
void couple_runs(const Coupled& p, const CoupledRow<T>& r) {
    const bool by_x = p.lanes == Lanes::x;
    const int64_t stride = by_x ? p.x_mul : p.y_mul, step = by_x ? p.y_mul : p.x_mul;
    const T *const lane = by_x ? r.x + p.x : r.y + p.y, *const scalar = by_x ? r.y + p.y : r.x + p.x;
    T* const dlane = by_x ? (r.dx ? r.dx + p.x : nullptr) : (r.dy ? r.dy + p.y : nullptr);
    T* const dscalar = by_x ? (r.dy ? r.dy + p.y : nullptr) : (r.dx ? r.dx + p.x : nullptr);
    const size_t n = p.entries.size();
    for (const Run& run : p.runs) {
        std::fill_n(r.m, n, T(0));
        for (const Source& s : p.sources) r.m[s.entry] += static_cast<T>(s.c) * scalar[s.b * step + run.scalar];
        const T* const w = p.w >= 0 ? r.w + p.w + run.w : nullptr;
        T* const dw = r.dw && p.w >= 0 ? r.dw + p.w + run.w : nullptr;
        const int64_t out = p.z + run.out;
        if (r.z)
            in_tiles<T>(run.count, [&](auto tile, int64_t u) {
                run_forward<T>(p, r.m, lane + run.begin + u, stride, w ? w + u : nullptr, r.z + out + u, tile);
            });
        if (!dlane && !dscalar && !dw) continue;
        if (dscalar) std::fill_n(r.partial, n * lanes<T>, T(0));
        in_tiles<T>(run.count, [&](auto tile, int64_t u) {
            run_backward<T>(p, r, r.m, lane + run.begin + u, dlane ? dlane + run.begin + u : nullptr, stride,
                            w ? w + u : nullptr, dw ? dw + u : nullptr, r.g + out + u, dscalar != nullptr, tile);
        });
        if (!dscalar) continue;
        for (size_t q = 0; q < n; ++q) r.dm[q] = sum<T>(load<T>(r.partial + q * lanes<T>));
        for (const Source& s : p.sources) dscalar[s.b * step + run.scalar] += static_cast<T>(s.c) * r.dm[s.entry];
    }
}

template <class T, class Tile>
EQK_INLINE void equal_forward(const Coupled& p, const T* x, const T* y, const T* w, T* z, Tile) {
    const size_t n = p.cells.size();
    for (size_t q = 0; q < n;) {
        const int k = p.cells[q].k;
        Tile sum = Tile::zero();
        for (; q < n && p.cells[q].k == k; ++q) {
            const Cell& c = p.cells[q];
            sum.add(static_cast<T>(c.c), Tile::at(x + c.i * p.x_mul) * Tile::at(y + c.j * p.y_mul));
        }
        if (w) sum = sum * Tile::at(w);
        T* const to = z + k * p.z_mul;
        for (int b = 0; b < Tile::packs; ++b) sum.v[b] += Tile::at(to).v[b];
        sum.put(to);
    }
}

template <class T, class Tile>
EQK_INLINE void equal_backward(const Coupled& p, const T* x, const T* y, const T* w, const T* g, T* dx, T* dy, T* dw,
                               bool add_w, Tile) {
    const size_t n = p.cells.size();
    Tile total = Tile::zero();
    for (size_t q = 0; q < n;) {
        const int k = p.cells[q].k;
        const Tile gk = Tile::at(g + k * p.z_mul);
        const Tile hk = w ? gk * Tile::at(w) : gk;
        for (; q < n && p.cells[q].k == k; ++q) {
            const Cell& c = p.cells[q];
            const T factor = static_cast<T>(c.c);
            const Tile xi = Tile::at(x + c.i * p.x_mul), yj = Tile::at(y + c.j * p.y_mul);
            if (dx) {
                Tile d = Tile::at(dx + c.i * p.x_mul);
                d.add(factor, yj * hk);
                d.put(dx + c.i * p.x_mul);
            }
            if (dy) {
                Tile d = Tile::at(dy + c.j * p.y_mul);
                d.add(factor, xi * hk);
                d.put(dy + c.j * p.y_mul);
            }
            if (dw) total.add(factor, xi * yj * gk);
        }
    }
    if (!dw) return;
    if (add_w)
        for (int b = 0; b < Tile::packs; ++b) total.v[b] += Tile::at(dw).v[b];
    total.put(dw);
}

// Equal channels of both operands.
template <class T>
void couple_equal(const Coupled& p, const CoupledRow<T>& r) {
    const Run& run = p.runs[0];
    const T *const x = r.x + p.x, *const y = r.y + p.y, *const w = p.w >= 0 ? r.w + p.w : nullptr;
    T *const dx = r.dx ? r.dx + p.x : nullptr, *const dy = r.dy ? r.dy + p.y : nullptr;
    T* const dw = r.dw && p.w >= 0 ? r.dw + p.w : nullptr;
    const int64_t out = p.z + run.out;
    in_tiles<T>(run.count, [&](auto tile, int64_t u) {
        if (r.z) equal_forward<T>(p, x + u, y + u, w ? w + u : nullptr, r.z + out + u, tile);
        if (dx || dy || dw)
            equal_backward<T>(p, x + u, y + u, w ? w + u : nullptr, r.g + out + u, dx ? dx + u : nullptr,
                              dy ? dy + u : nullptr, dw ? dw + u : nullptr, r.add_w, tile);
    });
}

// --- all rows

// What one thread owns.
template <class T>
struct CoupleScratch {
    Buffer<T> x, y, g, z, dx, dy, w, dw, m, dm, partial, added;
    CoupleScratch(const Coupling& p, const CoupleArgs<T>& a)
        : x(p.turn_x ? p.x_dim : 0),
          y(p.turn_y ? p.y_dim : 0),
          g(p.turn_z ? p.z_dim : 0),
          z(p.turn_z ? p.z_dim : 0),
          dx(p.turn_x ? p.x_dim : 0),
          dy(p.turn_y ? p.y_dim : 0),
          w(p.turn_w ? p.w_dim : 0),
          dw(p.turn_w ? p.w_dim : 0),
          m(p.most_entries),
          dm(p.most_entries),
          partial(p.most_entries * lanes<T>),
          added(a.add ? std::max({p.x_dim, p.y_dim, p.z_dim}) : 0) {}
};

// Weights from the order outside to that of the runs, or back.
template <class T>
void turn_weights(const Coupling& p, bool in, const T* from, T* to) {
    std::copy_n(from, p.w_dim, to);
    for (const Coupled& path : p.paths) {
        const int64_t rows = path.turned_rows, columns = path.turned_columns;
        for (int64_t r = 0; r < rows; ++r)
            for (int64_t c = 0; c < columns; ++c) {
                const int64_t out = path.w + r * columns + c, run = path.w + c * rows + r;
                to[in ? run : out] = from[in ? out : run];
            }
    }
}

template <class T>
void couple_row(const Coupling& p, const CoupleArgs<T>& a, CoupleScratch<T>& t, int64_t row, const T* w, T* dw) {
    CoupledRow<T> r{};
    r.x = inside(p.x, p.turn_x, a.x ? a.x + row * p.x_dim : nullptr, t.x);
    r.y = inside(p.y, p.turn_y, a.y ? a.y + row * p.y_dim : nullptr, t.y);
    r.g = inside(p.z, p.turn_z, a.g ? a.g + row * p.z_dim : nullptr, t.g);
    r.w = w;
    r.dw = dw;
    r.add_w = a.shared_w;
    r.m = t.m.data();
    r.dm = t.dm.data();
    r.partial = t.partial.data();
    if (a.z) r.z = p.turn_z ? t.z.data() : a.z + row * p.z_dim;
    if (a.dx) r.dx = p.turn_x ? t.dx.data() : a.dx + row * p.x_dim;
    if (a.dy) r.dy = p.turn_y ? t.dy.data() : a.dy + row * p.y_dim;
    if (r.z && (p.turn_z || !a.add)) std::fill_n(r.z, p.z_dim, T(0));
    if (r.dx && (p.turn_x || !a.add)) std::fill_n(r.dx, p.x_dim, T(0));
    if (r.dy && (p.turn_y || !a.add)) std::fill_n(r.dy, p.y_dim, T(0));
    for (const Coupled& path : p.paths) {
        if (path.lanes == Lanes::both)
            couple_equal(path, r);
        else
            couple_runs(path, r);
    }
    if (r.z && p.turn_z) outside(p.z, a.add, r.z, a.z + row * p.z_dim, p.z_dim, t.added.data());
    if (r.dx && p.turn_x) outside(p.x, a.add, r.dx, a.dx + row * p.x_dim, p.x_dim, t.added.data());
    if (r.dy && p.turn_y) outside(p.y, a.add, r.dy, a.dy + row * p.y_dim, p.y_dim, t.added.data());
}

template <class T>
void couple(const Coupling& p, const CoupleArgs<T>& a) {
    const int64_t rows = std::max<int64_t>((a.rows + CHUNKS - 1) / CHUNKS, 16), chunks = (a.rows + rows - 1) / rows;
    const int threads = static_cast<int>(std::min<int64_t>(chunks < 4 ? 1 : chunks, a.threads));
    const bool sums = a.dw && a.shared_w, by_row = a.w && !a.shared_w;
    const Buffer<T> w(p.turn_w && a.w && a.shared_w ? p.w_dim : 0), dw(sums ? chunks * p.w_dim : 0);
    if (w.size()) turn_weights(p, true, a.w, w.data());
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        CoupleScratch<T> t(p, a);
#pragma omp for schedule(dynamic)
        for (int64_t chunk = 0; chunk < chunks; ++chunk) {
            T* const sum = sums ? dw.data() + chunk * p.w_dim : nullptr;
            if (sum) std::fill_n(sum, p.w_dim, T(0));
            for (int64_t row = chunk * rows; row < std::min(a.rows, (chunk + 1) * rows); ++row) {
                const T* weights = w.size() ? w.data() : by_row ? a.w + row * p.w_dim : a.w;
                if (by_row && p.turn_w) turn_weights(p, true, weights, t.w.data()), weights = t.w.data();
                T* const own = a.dw && !sums ? a.dw + row * p.w_dim : nullptr;
                couple_row(p, a, t, row, weights, sum ? sum : own && p.turn_w ? t.dw.data() : own);
                if (own && p.turn_w) turn_weights(p, false, t.dw.data(), own);
            }
        }
    }
    if (!sums) return;
    for (int64_t chunk = 1; chunk < chunks; ++chunk)
        for (int64_t c = 0; c < p.w_dim; ++c) dw[c] += dw[chunk * p.w_dim + c];
    if (!chunks)
        std::fill_n(a.dw, p.w_dim, T(0));
    else if (p.turn_w)
        turn_weights(p, false, dw.data(), a.dw);
    else
        std::copy_n(dw.data(), p.w_dim, a.dw);
}

extern const ModeKernels mode_kernels;
const ModeKernels mode_kernels{{couple<float>, mix<float>, turn_rows<float>, outer<float>},
                               {couple<double>, mix<double>, turn_rows<double>, outer<double>}};

}  // namespace EQK_TARGET
}  // namespace eqk
