// Tiles of as many rows as lanes, transposed in registers.
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
