// Tiles of as many rows as lanes, and rows of three, five or seven columns, transposed in registers.
#pragma once

#include <utility>

#include "vector.hpp"

namespace eqk {
namespace EQK_TARGET {

template <class T>
constexpr auto every_lane = std::make_integer_sequence<int, lanes<T>>{};

// Lane i of the result is lane Pattern::at(i) of a and b, one behind the other.
template <class Pattern, class V, int... I>
EQK_INLINE V shuffle(V a, V b, std::integer_sequence<int, I...>) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, Pattern::at(I)...);
#else
    using Mask = decltype(a < b);
    return __builtin_shuffle(a, b, Mask{Pattern::at(I)...});
#endif
}

template <class Pattern, class T>
EQK_INLINE Vec<T> take(Vec<T> a, Vec<T> b) {
    return shuffle<Pattern>(a, b, every_lane<T>);
}

// The halves of a swap of blocks of size S.
template <int N, int S>
struct Low {
    static constexpr int at(int i) { return i & S ? N + i - S : i; }
};
template <int N, int S>
struct High {
    static constexpr int at(int i) { return i & S ? N + i : i + S; }
};

// Transposes an N x N tile by swapping its off-diagonal blocks of size S, S/2, ..., 1.
template <class T, int S = lanes<T> / 2>
EQK_INLINE void transpose(Vec<T>* row) {
    constexpr int n = lanes<T>;
#pragma GCC unroll 16
    for (int i = 0; i < n; ++i) {
        if (i & S) continue;
        const Vec<T> low = take<Low<n, S>, T>(row[i], row[i + S]);
        row[i + S] = take<High<n, S>, T>(row[i], row[i + S]);
        row[i] = low;
    }
    if constexpr (S > 1) transpose<T, S / 2>(row);
}

// L channels of D components, as D vectors of columns (channel by channel) and as D vectors, one a component. D is odd
// and L a power of two, so that the columns of a component lie in L different lanes: one blend of D vectors collects
// them, one permutation puts them in order, and the same backwards.
template <int L, int D, int Component>
struct Spread {  // lane of a column to the channel
    static constexpr int at(int lane) {
        for (int u = 0; u < L; ++u)
            if ((u * D + Component) % L == lane) return u;
        return -1;
    }
};
template <int L, int D, int Component>
struct Collect {  // channel to the lane of its column
    static constexpr int at(int u) { return (u * D + Component) % L; }
};
template <int L, int D, int Vector, int Component>
struct Blend {  // the second operand's lanes where a vector of columns has a component
    static constexpr int at(int lane) { return (Vector * L + lane) % D == Component ? L + lane : lane; }
    static constexpr bool some() {
        for (int lane = 0; lane < L; ++lane)
            if (at(lane) >= L) return true;
        return false;
    }
};

template <class Blend, class T>
EQK_INLINE void blend(Vec<T>& to, Vec<T> from) {
    if constexpr (Blend::some()) to = take<Blend, T>(to, from);
}

template <class T, int D, int Component, int... Vector>
EQK_INLINE Vec<T> component_of(const Vec<T>* columns, std::integer_sequence<int, Vector...>) {
    Vec<T> v = columns[0];
    (blend<Blend<lanes<T>, D, Vector, Component>, T>(v, columns[Vector]), ...);
    return take<Collect<lanes<T>, D, Component>, T>(v, v);
}

template <class T, int D, int Vector, int... Component>
EQK_INLINE Vec<T> columns_of(const Vec<T>* spread, std::integer_sequence<int, Component...>) {
    Vec<T> v = spread[0];
    (blend<Blend<lanes<T>, D, Vector, Component>, T>(v, spread[Component]), ...);
    return v;
}

template <class T, int D, int... I>
EQK_INLINE void split_each(const Vec<T>* columns, Vec<T>* components, std::integer_sequence<int, I...> all) {
    ((components[I] = component_of<T, D, I>(columns, all)), ...);
}

template <class T, int D, int... I>
EQK_INLINE void join_each(const Vec<T>* components, Vec<T>* columns, std::integer_sequence<int, I...> all) {
    const Vec<T> spread[D] = {take<Spread<lanes<T>, D, I>, T>(components[I], components[I])...};
    ((columns[I] = columns_of<T, D, I>(spread, all)), ...);
}

template <class T, int D>
EQK_INLINE void split_columns(const Vec<T>* columns, Vec<T>* components) {
    split_each<T, D>(columns, components, std::make_integer_sequence<int, D>{});
}

template <class T, int D>
EQK_INLINE void join_components(const Vec<T>* components, Vec<T>* columns) {
    join_each<T, D>(components, columns, std::make_integer_sequence<int, D>{});
}

// Column j of W rows, a multiple of the lanes, at to[j * W] on; they may be read up to `end`.
template <class T, int W>
EQK_INLINE void put_side_by_side(const T* const* rows, int64_t columns, const T* end, T* to) {
    constexpr int L = lanes<T>;
    for (int64_t j = 0; j < columns; j += L)
        for (int from = 0; from < W; from += L) {
            const int64_t some = columns - j < L ? columns - j : L;
            bool inside = 2 * some >= L;
            for (int e = from; e < from + L; ++e) inside = inside && end - rows[e] >= j + L;
            if (inside) {
                Vec<T> tile[L];
                for (int e = 0; e < L; ++e) tile[e] = load<T>(rows[from + e] + j);
                transpose<T>(tile);
                for (int c = 0; c < some; ++c) store<T>(to + (j + c) * W + from, tile[c]);
            } else {
                for (int64_t c = j; c < j + some; ++c)
                    for (int e = from; e < from + L; ++e) to[c * W + e] = rows[e][c];
            }
        }
}

}  // namespace EQK_TARGET
}  // namespace eqk
