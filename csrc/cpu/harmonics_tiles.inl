// Blocks of edges between memory and lanes: rows of a few columns are transposed into one vector a column, and back.
#pragma once

#include <utility>

#include "harmonics.hpp"
#include "vector.hpp"

namespace eqk {
namespace EQK_TARGET {
namespace harmonics {
namespace {

// A value of N lanes in memory that vectors are loaded from whole.
template <typename T>
struct alignas(EQK_VECTOR_BYTES) Packed {
    T lane[lanes<T>];
    Vec<T>& vector() { return *reinterpret_cast<Vec<T>*>(lane); }
};

#if defined(__clang__)
template <int S, typename V, int... I>
inline void swap_blocks(V& a, V& b, std::integer_sequence<int, I...>) {
    constexpr int n = sizeof...(I);
    const V low = __builtin_shufflevector(a, b, ((I & S) ? n + I - S : I)...);
    b = __builtin_shufflevector(a, b, ((I & S) ? n + I : I + S)...);
    a = low;
}
#else
template <int S, typename V, int... I>
inline void swap_blocks(V& a, V& b, std::integer_sequence<int, I...>) {
    constexpr int n = sizeof...(I);
    using Mask = decltype(a < b);
    const Mask first = {((I & S) ? n + I - S : I)...}, second = {((I & S) ? n + I : I + S)...};
    const V low = __builtin_shuffle(a, b, first);
    b = __builtin_shuffle(a, b, second);
    a = low;
}
#endif

// Transposes an N x N tile by swapping its off-diagonal blocks of size S, S/2, ..., 1.
template <typename T, int S = lanes<T> / 2>
EQK_INLINE void transpose(Vec<T>* row) {
    constexpr int n = lanes<T>;
#pragma GCC unroll 16
    for (int i = 0; i < n; ++i)
        if (!(i & S)) swap_blocks<S>(row[i], row[i + S], std::make_integer_sequence<int, n>{});
    if constexpr (S > 1) transpose<T, S / 2>(row);
}

// out[e, c] = y[column[c]] of lane e, for `rows` edges. Full blocks of the same type go by tiles; the last tile
// overlaps.
template <typename S, typename T>
inline void store_columns(const HarmonicsTable& table, const Vec<T>* y, int rows, S* out) {
    constexpr int n = lanes<T>;
    const int64_t dim = table.dim;
    if constexpr (sizeof(S) == sizeof(T)) {
        if (rows == n && dim >= n) {
            for (int64_t next = 0; next < dim; next += n) {
                const int64_t first = next + n <= dim ? next : dim - n;
                Vec<T> tile[n];
#pragma GCC unroll 16
                for (int i = 0; i < n; ++i) tile[i] = y[table.columns[first + i]];
                transpose<T>(tile);
#pragma GCC unroll 16
                for (int i = 0; i < n; ++i) *reinterpret_cast<Vec<T>*>(out + i * dim + first) = tile[i];
            }
            return;
        }
    }
    for (int64_t c = 0; c < dim; ++c) {
        Packed<T> column;
        column.vector() = y[table.columns[c]];
        for (int e = 0; e < rows; ++e) out[e * dim + c] = static_cast<S>(column.lane[e]);
    }
}

// z[j] = sum over the columns of component j of in[e, column]; lanes past `rows` are zero.
template <typename S, typename T>
inline void load_columns(const HarmonicsTable& table, const S* in, int rows, Vec<T>* z) {
    constexpr int n = lanes<T>;
    const int64_t dim = table.dim;
    const int components = (table.lmax + 1) * (table.lmax + 1);
    for (int j = 0; j < components; ++j) z[j] = Vec<T>{};
    if constexpr (sizeof(S) == sizeof(T)) {
        if (rows == n && dim >= n) {
            for (int64_t next = 0; next < dim; next += n) {
                const int64_t first = next + n <= dim ? next : dim - n;
                Vec<T> tile[n];
#pragma GCC unroll 16
                for (int i = 0; i < n; ++i) tile[i] = *reinterpret_cast<const Vec<T>*>(in + i * dim + first);
                transpose<T>(tile);
                Packed<T> column[n];
#pragma GCC unroll 16
                for (int i = 0; i < n; ++i) column[i].vector() = tile[i];
                for (int64_t c = next; c < first + n; ++c) z[table.columns[c]] += column[c - first].vector();
            }
            return;
        }
    }
    for (int64_t c = 0; c < dim; ++c) {
        Packed<T> column{};
        for (int e = 0; e < rows; ++e) column.lane[e] = static_cast<T>(in[e * dim + c]);
        z[table.columns[c]] += column.vector();
    }
}

template <typename S, typename T>
inline void load_vector(const S* in, int rows, Vec<T>* v) {
    Packed<T> packed[3] = {};
    for (int a = 0; a < 3; ++a) {
        for (int e = 0; e < rows; ++e) packed[a].lane[e] = static_cast<T>(in[3 * e + a]);
        v[a] = packed[a].vector();
    }
}

template <typename S, typename T>
inline void store_vector(const Vec<T>* v, int rows, S* out) {
    for (int a = 0; a < 3; ++a) {
        Packed<T> packed;
        packed.vector() = v[a];
        for (int e = 0; e < rows; ++e) out[3 * e + a] = static_cast<S>(packed.lane[e]);
    }
}

}  // namespace
}  // namespace harmonics
}  // namespace EQK_TARGET
}  // namespace eqk
