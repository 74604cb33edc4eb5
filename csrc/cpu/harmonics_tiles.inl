// Blocks of edges between memory and lanes: rows of a few columns are transposed into one vector a column, and back.
#pragma once

#include <cstring>

#include "harmonics.hpp"
#include "harmonics_steps.inl"
#include "transpose.inl"

namespace eqk {
namespace EQK_TARGET {
namespace harmonics {
namespace {

// Vectors in space lie behind one another, x y z x y z ...
template <typename T>
EQK_INLINE void take_components(const T* in, Vec<T>* v) {
    constexpr int n = lanes<T>;
    const Vec<T> columns[3] = {load(in), load(in + n), load(in + 2 * n)};
    split_columns<T, 3>(columns, v);
}

template <typename T>
EQK_INLINE void put_components(const Vec<T>* v, T* out) {
    constexpr int n = lanes<T>;
    Vec<T> columns[3];
    join_components<T, 3>(v, columns);
    for (int i = 0; i < 3; ++i) store(out + i * n, columns[i]);
}

// Four vectors become the rows x y z w x y z w ... and back: half a transpose.
template <int N>
struct ZipLow {
    static constexpr int at(int i) { return i % 2 * N + i / 2; }
};
template <int N>
struct ZipHigh {
    static constexpr int at(int i) { return i % 2 * N + i / 2 + N / 2; }
};
template <int N>
struct Even {
    static constexpr int at(int i) { return 2 * i; }
};
template <int N>
struct Odd {
    static constexpr int at(int i) { return 2 * i + 1; }
};

template <typename T>
EQK_INLINE void store_four(const Vec<T>* y, T* out) {
    constexpr int n = lanes<T>;
    const Vec<T> a = take<ZipLow<n>, T>(y[0], y[2]), b = take<ZipLow<n>, T>(y[1], y[3]);
    const Vec<T> c = take<ZipHigh<n>, T>(y[0], y[2]), d = take<ZipHigh<n>, T>(y[1], y[3]);
    store(out, take<ZipLow<n>, T>(a, b));
    store(out + n, take<ZipHigh<n>, T>(a, b));
    store(out + 2 * n, take<ZipLow<n>, T>(c, d));
    store(out + 3 * n, take<ZipHigh<n>, T>(c, d));
}

template <typename T>
EQK_INLINE void load_four(const T* in, Vec<T>* z) {
    constexpr int n = lanes<T>;
    const Vec<T> a = load(in), b = load(in + n), c = load(in + 2 * n), d = load(in + 3 * n);
    const Vec<T> even[2] = {take<Even<n>, T>(a, b), take<Even<n>, T>(c, d)};
    const Vec<T> odd[2] = {take<Odd<n>, T>(a, b), take<Odd<n>, T>(c, d)};
    z[0] = take<Even<n>, T>(even[0], even[1]);
    z[1] = take<Even<n>, T>(odd[0], odd[1]);
    z[2] = take<Odd<n>, T>(even[0], even[1]);
    z[3] = take<Odd<n>, T>(odd[0], odd[1]);
}

template <typename S, typename T>
EQK_INLINE void store_column(Vec<T> y, int rows, int64_t dim, S* out) {
    Packed<T> column;
    column.vector() = y;
    for (int e = 0; e < rows; ++e) out[e * dim] = static_cast<S>(column.lane[e]);
}

// N edges, `dim` columns: whole tiles, the last of which overlaps the one before, or a few columns one by one. A row
// narrower than a tile is stored with what lies behind it, which the next row overwrites.
template <typename T, class Component>
EQK_INLINE void store_tiles(const Vec<T>* y, int64_t dim, T* out, Component component) {
    constexpr int n = lanes<T>;
    constexpr int64_t few = n / 4;
    int64_t next = 0;
    while (dim - next > few || (dim <= n && next < dim)) {
        const int64_t first = next + n <= dim || dim < n ? next : dim - n;
        Vec<T> tile[n];
#pragma GCC unroll 16
        for (int i = 0; i < n; ++i) tile[i] = y[component(first + i < dim ? first + i : 0)];
        transpose<T>(tile);
#pragma GCC unroll 16
        for (int i = 0; i < n; ++i) {
            if (dim >= n || i * dim + n <= n * dim)
                store(out + i * dim + first, tile[i]);
            else
                std::memcpy(out + i * dim, &tile[i], static_cast<size_t>(dim) * sizeof(T));
        }
        next = first + n;
    }
    for (; next < dim; ++next) store_column<T, T>(y[component(next)], n, dim, out + next);
}

// out[e, c] = the component of column c, of lane e, for `rows` edges.
template <typename S, typename T, class Degree, class Rows>
EQK_INLINE void store_columns(const HarmonicsTable& table, Degree lmax, const Vec<T>* y, Rows rows, S* out) {
    if constexpr (sizeof(S) == sizeof(T)) {
        if (rows == lanes<T> && table.plain && lmax == 1) return store_four<T>(y, out);
        if (rows == lanes<T> && table.plain && !std::is_same_v<Degree, int>)
            return store_tiles<T>(y, (lmax + 1) * (lmax + 1), out, [](int64_t c) { return c; });
        if (rows == lanes<T>) return store_tiles<T>(y, table.dim, out, [&](int64_t c) { return table.columns[c]; });
    }
    for (int64_t c = 0; c < table.dim; ++c) store_column<S, T>(y[table.columns[c]], rows, table.dim, out + c);
}

// z[column] = in[., column] of N edges.
template <typename T>
EQK_INLINE void load_tiles(const T* in, int64_t dim, Vec<T>* z) {
    constexpr int n = lanes<T>;
    constexpr int64_t few = n / 4;
    int64_t next = 0;
    while (dim - next > few || (dim <= n && next < dim)) {
        const int64_t first = next + n <= dim || dim < n ? next : dim - n;
        Vec<T> tile[n];
#pragma GCC unroll 16
        for (int i = 0; i < n; ++i) {
            if (dim >= n || i * dim + n <= n * dim)
                tile[i] = load(in + i * dim + first);
            else
                std::memcpy(&tile[i], in + i * dim, static_cast<size_t>(dim) * sizeof(T));
        }
        transpose<T>(tile);
#pragma GCC unroll 16
        for (int i = 0; i < n; ++i)
            if (first + i < dim) z[first + i] = tile[i];
        next = first + n;
    }
    for (; next < dim; ++next) {
        Packed<T> column;
        for (int e = 0; e < n; ++e) column.lane[e] = in[e * dim + next];
        z[next] = column.vector();
    }
}

// z[j] = sum over the columns of component j of in[e, column]; lanes past `rows` are zero.
template <typename S, typename T, class Degree, class Rows>
EQK_INLINE void load_columns(const HarmonicsTable& table, Degree lmax, const S* in, Rows rows, Vec<T>* z) {
    if constexpr (sizeof(S) == sizeof(T)) {
        if (rows == lanes<T> && table.plain && lmax == 1) return load_four<T>(in, z);
        if (rows == lanes<T> && table.plain && !std::is_same_v<Degree, int>)
            return load_tiles<T>(in, (lmax + 1) * (lmax + 1), z);
    }
    const int64_t dim = table.dim;
    const int components = (lmax + 1) * (lmax + 1);
    for (int j = 0; j < components; ++j) z[j] = Vec<T>{};
    for (int64_t c = 0; c < dim; ++c) {
        Packed<T> column{};
        for (int e = 0; e < rows; ++e) column.lane[e] = static_cast<T>(in[e * dim + c]);
        z[table.columns[c]] += column.vector();
    }
}

template <typename S, typename T, class Rows>
EQK_INLINE void load_vector(const S* in, Rows rows, Vec<T>* v) {
    if constexpr (sizeof(S) == sizeof(T)) {
        if (rows == lanes<T>) return take_components<T>(in, v);
    }
    Packed<T> packed[3] = {};
    for (int a = 0; a < 3; ++a) {
        for (int e = 0; e < rows; ++e) packed[a].lane[e] = static_cast<T>(in[3 * e + a]);
        v[a] = packed[a].vector();
    }
}

template <typename S, typename T, class Rows>
EQK_INLINE void store_vector(const Vec<T>* v, Rows rows, S* out) {
    if constexpr (sizeof(S) == sizeof(T)) {
        if (rows == lanes<T>) return put_components<T>(v, out);
    }
    for (int a = 0; a < 3; ++a) store_column<S, T>(v[a], rows, 3, out + a);
}

}  // namespace
}  // namespace harmonics
}  // namespace EQK_TARGET
}  // namespace eqk
