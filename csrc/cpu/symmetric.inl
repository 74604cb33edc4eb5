// Lanes are channels. A task is a tile of channels of a run of nodes; a run is of one species, whose weights of the
// tile are copied side by side first. Everything that a task writes is its own.
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

template <typename T>
EQK_INLINE Vec<T> gather(const T* p, int64_t step, int64_t count) {
    alignas(64) T lane[lanes<T>];
    if (step == 1 && count == lanes<T>) return load(p);
    for (int64_t c = 0; c < lanes<T>; ++c) lane[c] = c < count ? p[c * step] : T(0);
    return load(lane);
}

template <typename T>
EQK_INLINE void scatter(T* p, int64_t step, int64_t count, Vec<T> v) {
    alignas(64) T lane[lanes<T>];
    if (step == 1 && count == lanes<T>) return store(p, v);
    store(lane, v);
    for (int64_t c = 0; c < count; ++c) p[c * step] = lane[c];
}

// What one thread works in: of one tile, the values, their derivatives, z, dz, w and dw.
template <typename T>
struct Scratch {
    explicit Scratch(const SymmetricTable& table)
        : v(table.values), dv(table.values), z(table.columns), w(table.terms), dw(table.terms) {}
    std::vector<Vec<T>> v, dv, z, w, dw;
};

template <typename T>
EQK_INLINE void load_node(const SymmetricTable& table, const SymmetricArrays<T>& at, int64_t node, int64_t channel,
                          int64_t count, Scratch<T>& s) {
    Vec<T>* v = s.v.data();
    for (int64_t set = 0; set < table.reads; ++set)
        for (int64_t i = 0; i < table.components; ++i, ++v)
            *v = at.x[set] ? gather(at.x[set] + node * table.x_dim + table.x_first[i] + channel * table.x_step[i],
                                    table.x_step[i], count)
                           : Vec<T>{};
    for (int64_t k = 0; at.z && k < table.columns; ++k)
        s.z[k] =
            gather(at.z + node * table.z_dim + table.z_first[k] + channel * table.z_step[k], table.z_step[k], count);
}

template <typename T>
EQK_INLINE void forward(const SymmetricTable& table, Vec<T>* v) {
    int32_t out = -1;
    for (int64_t p = 0; p < table.products; ++p) {
        const SymmetricProduct& at = table.product[p];
        const Vec<T> made = v[at.a] * v[at.b];
        v[at.out] = at.out == out ? v[at.out] + made : made;
        out = at.out;
    }
}

template <typename T>
EQK_INLINE void backward(const SymmetricTable& table, const Vec<T>* v, Vec<T>* dv) {
    for (int64_t p = table.products - 1; p >= 0; --p) {
        const SymmetricProduct& at = table.product[p];
        const Vec<T> g = dv[at.out];
        dv[at.a] += g * v[at.b];
        dv[at.b] += g * v[at.a];
    }
}

template <typename T>
EQK_INLINE void node_tile(const SymmetricTable& table, const SymmetricArrays<T>& at, int64_t node, int64_t channel,
                          int64_t count, Scratch<T>& s) {
    load_node(table, at, node, channel, count, s);
    const SymmetricTerm* term = table.term;
    Vec<T>*v = s.v.data(), *dv = s.dv.data(), *w = s.w.data(), *dw = s.dw.data(), *z = s.z.data();
    forward<T>(table, v);
    if (at.dz) {
        for (int64_t t = 0, k = 0; k < table.columns; ++k) {
            Vec<T> sum{};
            for (; t < table.terms && term[t].z == k; ++t) sum += w[t] * v[term[t].value];
            scatter(at.dz + node * table.z_dim + table.z_first[k] + channel * table.z_step[k], table.z_step[k], count,
                    sum);
        }
    }
    if (at.dw)
        for (int64_t t = 0; t < table.terms; ++t) dw[t] += z[term[t].z] * v[term[t].value];
    if (!at.dx) return;
    for (int64_t n = 0; n < table.values; ++n) dv[n] = Vec<T>{};
    for (int64_t t = 0; t < table.terms; ++t) dv[term[t].value] += w[t] * z[term[t].z];
    backward<T>(table, v, dv);
    for (int64_t set = 0; set < table.reads; ++set)
        for (int64_t i = 0; i < table.components; ++i, ++dv)
            if (at.dx[set])
                scatter(at.dx[set] + node * table.x_dim + table.x_first[i] + channel * table.x_step[i], table.x_step[i],
                        count, *dv);
}

template <typename T>
void task(const SymmetricTable& table, const SymmetricArrays<T>& at, const Run& run, int64_t channel, Scratch<T>& s) {
    const int64_t left = table.channels - channel, count = left < lanes<T> ? left : lanes<T>;
    const int64_t weights = run.species * table.terms * table.channels + channel;
    for (int64_t t = 0; t < table.terms; ++t) {
        if (at.w) s.w[t] = gather(at.w + weights + t * table.channels, 1, count);
        if (at.dw) s.dw[t] = Vec<T>{};
    }
    for (int64_t n = run.first; n < run.last; ++n) node_tile(table, at, at.order[n], channel, count, s);
    for (int64_t t = 0; at.dw && t < table.terms; ++t) {
        T* p = at.dw + weights + t * table.channels;
        scatter(p, 1, count, gather(p, 1, count) + s.dw[t]);
    }
}

template <typename T>
void sweep(const SymmetricTable& table, const SymmetricArrays<T>& at, int threads) {
    const std::vector<Run> all = runs(at);
    const int64_t tiles = (table.channels + lanes<T> - 1) / lanes<T>, tasks = tiles * static_cast<int64_t>(all.size());
    const int64_t useful = at.nodes * tiles / 16 + 1;
    const int team = static_cast<int>(useful < threads ? useful : threads);
    if (team <= 1) {
        Scratch<T> s(table);
        for (int64_t n = 0; n < tasks; ++n) task(table, at, all[n / tiles], n % tiles * lanes<T>, s);
        return;
    }
#pragma omp parallel num_threads(team)
    {
        Scratch<T> s(table);
#pragma omp for schedule(dynamic)
        for (int64_t n = 0; n < tasks; ++n) task(table, at, all[n / tiles], n % tiles * lanes<T>, s);
    }
}

}  // namespace
}  // namespace symmetric

extern const SymmetricKernels symmetric_kernels;
const SymmetricKernels symmetric_kernels{symmetric::sweep<float>, symmetric::sweep<double>};

}  // namespace EQK_TARGET
}  // namespace eqk
