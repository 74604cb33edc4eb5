// Lanes are channels. A task is a tile of channels (some vectors) of a run of nodes; a run is of one species, whose
// weights of the tile are copied side by side first. Everything that a task writes is its own.
#include <omp.h>

#include <vector>

#include "symmetric.hpp"
#include "vector.hpp"

namespace eqk {
namespace EQK_TARGET {
namespace symmetric {
namespace {

constexpr int64_t kRun = 64;  // nodes

struct Run {
    int64_t first, last, species;  // nodes order[first ... last-1]
};

// Without dw runs may be cut, to share the work; with it all nodes of a species add to one dw.
template <typename T>
std::vector<Run> runs(const SymmetricArrays<T>& at) {
    std::vector<Run> found;
    for (int64_t n = 0; n < at.nodes; ++n) {
        const int64_t s = at.species[at.order[n]];
        const bool cut = found.empty() || found.back().species != s || (!at.dw && n - found.back().first >= kRun);
        if (cut) found.push_back({n, n, s});
        found.back().last = n + 1;
    }
    return found;
}

// A number for each channel of a tile: W vectors side by side.
template <typename T, int W>
struct Tile {
    Vec<T> part[W];
};

template <typename T, int W>
EQK_INLINE Tile<T, W> operator*(const Tile<T, W>& a, const Tile<T, W>& b) {
    Tile<T, W> c;
    for (int n = 0; n < W; ++n) c.part[n] = a.part[n] * b.part[n];
    return c;
}

template <typename T, int W>
EQK_INLINE Tile<T, W> operator+(const Tile<T, W>& a, const Tile<T, W>& b) {
    Tile<T, W> c;
    for (int n = 0; n < W; ++n) c.part[n] = a.part[n] + b.part[n];
    return c;
}

template <typename T, int W>
EQK_INLINE Tile<T, W> gather(const T* p, int64_t step, int64_t count) {
    constexpr int64_t n = W * lanes<T>;
    alignas(64) T lane[n];
    if (step != 1 || count != n) {
        for (int64_t c = 0; c < n; ++c) lane[c] = c < count ? p[c * step] : T(0);
        p = lane;
    }
    Tile<T, W> v;
    for (int k = 0; k < W; ++k) v.part[k] = load(p + k * lanes<T>);
    return v;
}

template <typename T, int W>
EQK_INLINE void scatter(T* p, int64_t step, int64_t count, const Tile<T, W>& v) {
    constexpr int64_t n = W * lanes<T>;
    alignas(64) T lane[n];
    T* to = step == 1 && count == n ? p : lane;
    for (int k = 0; k < W; ++k) store(to + k * lanes<T>, v.part[k]);
    if (to == p) return;
    for (int64_t c = 0; c < count; ++c) p[c * step] = lane[c];
}

// What one thread works in: of one tile, the values, their derivatives, z, dz, w and dw.
template <typename T, int W>
struct Scratch {
    explicit Scratch(const SymmetricTable& table)
        : v(table.values), dv(table.values), z(table.columns), dz(table.columns), w(table.rows), dw(table.rows) {}
    std::vector<Tile<T, W>> v, dv, z, dz, w, dw;
};

template <typename T, int W>
EQK_INLINE void load_node(const SymmetricTable& table, const SymmetricArrays<T>& at, int64_t node, int64_t channel,
                          int64_t count, Scratch<T, W>& s) {
    Tile<T, W>* v = s.v.data();
    for (int64_t set = 0; set < table.reads; ++set)
        for (int64_t i = 0; i < table.components; ++i, ++v)
            *v = at.x[set] ? gather<T, W>(at.x[set] + node * table.x_dim + table.x_first[i] + channel * table.x_step[i],
                                          table.x_step[i], count)
                           : Tile<T, W>{};
    for (int64_t k = 0; at.z && k < table.columns; ++k)
        s.z[k] = gather<T, W>(at.z + node * table.z_dim + table.z_first[k] + channel * table.z_step[k], table.z_step[k],
                              count);
}

template <typename T, int W>
EQK_INLINE void forward(const SymmetricTable& table, Tile<T, W>* v) {
    int32_t out = -1;
    for (int64_t p = 0; p < table.inner; ++p) {
        const SymmetricProduct& at = table.product[p];
        const Tile<T, W> made = v[at.a] * v[at.b];
        v[at.out] = at.out == out ? v[at.out] + made : made;
        out = at.out;
    }
}

// What is added to one number again and again waits in a register for another number's turn.
template <typename T, int W>
struct Held {
    Tile<T, W>* all;
    int32_t number = 0;
    Tile<T, W> sum{};
    __attribute__((always_inline)) void turn(int32_t next) {
        all[number] = all[number] + sum;
        sum = Tile<T, W>{};
        number = next;
    }
    __attribute__((always_inline)) void add(int32_t to, const Tile<T, W>& part) {
        if (to != number) turn(to);
        sum = sum + part;
    }
};

// All monomials: with Value their terms' parts of dz and dw, with Slope the derivatives of what they are made of.
template <typename T, int W, bool Value, bool Slope>
EQK_INLINE void monomials(const SymmetricTable& table, bool wants_w, bool wants_z, Scratch<T, W>& s) {
    Tile<T, W>*v = s.v.data(), *w = s.w.data(), *dw = s.dw.data(), *z = s.z.data();
    Held<T, W> dz{s.dz.data()}, da{s.dv.data()};
    Tile<T, W>* dv = s.dv.data();
    for (int64_t n = 0; n < table.monomials; ++n) {
        const SymmetricMonomial& at = table.monomial[n];
        if constexpr (Value) {
            Tile<T, W> value{};
            if (at.value >= 0) value = v[at.value];
            for (int32_t p = at.first_product; p < at.last_product; ++p)
                value = value + v[table.product[p].a] * v[table.product[p].b];
            for (int32_t t = at.first_term; t < at.last_term; ++t) {
                const SymmetricTerm& term = table.term[t];
                if (wants_z) dz.add(term.z, w[term.row] * value);
                if (wants_w) dw[term.row] = dw[term.row] + z[term.z] * value;
            }
        }
        if constexpr (Slope) {
            Tile<T, W> g{};
            for (int32_t t = at.first_term; t < at.last_term; ++t) g = g + w[table.term[t].row] * z[table.term[t].z];
            if (at.value >= 0) da.add(at.value, g);
            for (int32_t p = at.first_product; p < at.last_product; ++p) {
                const SymmetricProduct& made = table.product[p];
                da.add(made.a, g * v[made.b]);
                dv[made.b] = dv[made.b] + g * v[made.a];
            }
        }
    }
    if (Value && wants_z) dz.turn(0);
    if (Slope) da.turn(0);
}

template <typename T, int W>
EQK_INLINE void backward(const SymmetricTable& table, const Tile<T, W>* v, Tile<T, W>* dv) {
    Held<T, W> da{dv};
    for (int64_t p = table.inner - 1; p >= 0; --p) {
        const SymmetricProduct& at = table.product[p];
        if (at.out == da.number) da.turn(at.a);
        const Tile<T, W> g = dv[at.out];
        da.add(at.a, g * v[at.b]);
        dv[at.b] = dv[at.b] + g * v[at.a];
    }
    da.turn(0);
}

template <typename T, int W>
EQK_INLINE void node_tile(const SymmetricTable& table, const SymmetricArrays<T>& at, int64_t node, int64_t channel,
                          int64_t count, Scratch<T, W>& s) {
    load_node(table, at, node, channel, count, s);
    forward<T, W>(table, s.v.data());
    for (Tile<T, W>& dz : s.dz) dz = Tile<T, W>{};
    if (at.dx)
        for (Tile<T, W>& dv : s.dv) dv = Tile<T, W>{};
    if (!at.dx)
        monomials<T, W, true, false>(table, at.dw, at.dz, s);
    else if (!at.dw && !at.dz)
        monomials<T, W, false, true>(table, false, false, s);
    else
        monomials<T, W, true, true>(table, at.dw, at.dz, s);
    for (int64_t k = 0; at.dz && k < table.columns; ++k)
        scatter<T, W>(at.dz + node * table.z_dim + table.z_first[k] + channel * table.z_step[k], table.z_step[k], count,
                      s.dz[k]);
    if (!at.dx) return;
    Tile<T, W>* dv = s.dv.data();
    backward<T, W>(table, s.v.data(), dv);
    for (int64_t set = 0; set < table.reads; ++set)
        for (int64_t i = 0; i < table.components; ++i, ++dv)
            if (at.dx[set])
                scatter<T, W>(at.dx[set] + node * table.x_dim + table.x_first[i] + channel * table.x_step[i],
                              table.x_step[i], count, *dv);
}

template <typename T, int W>
void task(const SymmetricTable& table, const SymmetricArrays<T>& at, const Run& run, int64_t channel,
          Scratch<T, W>& s) {
    const int64_t left = table.channels - channel, count = left < W * lanes<T> ? left : W * lanes<T>;
    const int64_t weights = run.species * table.rows * table.channels + channel;
    for (int64_t t = 0; t < table.rows; ++t) {
        if (at.w) s.w[t] = gather<T, W>(at.w + weights + t * table.channels, 1, count);
        if (at.dw) s.dw[t] = Tile<T, W>{};
    }
    for (int64_t n = run.first; n < run.last; ++n) node_tile(table, at, at.order[n], channel, count, s);
    for (int64_t t = 0; at.dw && t < table.rows; ++t) {
        T* p = at.dw + weights + t * table.channels;
        scatter<T, W>(p, 1, count, gather<T, W>(p, 1, count) + s.dw[t]);
    }
}

template <typename T, int W>
void sweep_tiles(const SymmetricTable& table, const SymmetricArrays<T>& at, int threads) {
    const std::vector<Run> all = runs(at);
    constexpr int64_t n_lanes = W * lanes<T>;
    const int64_t tiles = (table.channels + n_lanes - 1) / n_lanes, tasks = tiles * static_cast<int64_t>(all.size());
    const int64_t useful = at.nodes * tiles * W / 16 + 1;
    const int team = static_cast<int>(useful < threads ? useful : threads);
    if (team <= 1) {
        Scratch<T, W> s(table);
        for (int64_t n = 0; n < tasks; ++n) task(table, at, all[n / tiles], n % tiles * n_lanes, s);
        return;
    }
#pragma omp parallel num_threads(team)
    {
        Scratch<T, W> s(table);
#pragma omp for schedule(dynamic)
        for (int64_t n = 0; n < tasks; ++n) task(table, at, all[n / tiles], n % tiles * n_lanes, s);
    }
}

template <typename T>
void sweep(const SymmetricTable& table, const SymmetricArrays<T>& at, int threads) {
    if (table.channels > lanes<T>)
        sweep_tiles<T, 2>(table, at, threads);
    else
        sweep_tiles<T, 1>(table, at, threads);
}

}  // namespace
}  // namespace symmetric

extern const SymmetricKernels symmetric_kernels;
const SymmetricKernels symmetric_kernels{symmetric::sweep<float>, symmetric::sweep<double>};

}  // namespace EQK_TARGET
}  // namespace eqk
