// A few channels at once, as wide as fit: vectors, half vectors, single numbers.
#pragma once

#include "vector.hpp"

namespace eqk {
namespace EQK_TARGET {

#define EQK_MEMBER inline __attribute__((always_inline))

// N channels at once: a vector of N numbers, or one number.
template <class T, int N>
struct Pack {
    typedef T type __attribute__((vector_size(N * sizeof(T)), aligned(sizeof(T)), may_alias));
};
template <class T>
struct Pack<T, 1> {
    typedef T type;
};

// B packs of N channels each.
template <class T, int N, int B>
struct Tile {
    using P = typename Pack<T, N>::type;
    static constexpr int n = N, packs = B;
    P v[B];
    static EQK_MEMBER Tile zero() {
        Tile t;
        for (int b = 0; b < B; ++b) t.v[b] = P{};
        return t;
    }
    static EQK_MEMBER Tile at(const T* p) {
        Tile t;
        for (int b = 0; b < B; ++b) t.v[b] = *reinterpret_cast<const P*>(p + b * N);
        return t;
    }
    EQK_MEMBER void put(T* p) const {
        for (int b = 0; b < B; ++b) *reinterpret_cast<P*>(p + b * N) = v[b];
    }
    EQK_MEMBER void add(T factor, const Tile& o) {
        for (int b = 0; b < B; ++b) v[b] += o.v[b] * factor;
    }
    EQK_MEMBER void add(const Tile& o, const Tile& q) {
        for (int b = 0; b < B; ++b) v[b] += o.v[b] * q.v[b];
    }
    EQK_MEMBER Tile operator*(const Tile& o) const {
        Tile t;
        for (int b = 0; b < B; ++b) t.v[b] = v[b] * o.v[b];
        return t;
    }
};

// f(tile type, first channel) for pieces of `count` channels: as wide as fit, nothing beyond.
template <class T, class F>
EQK_INLINE void in_tiles(int64_t count, F&& f) {
    constexpr int L = lanes<T>;
    int64_t u = 0;
    for (; u + 4 * L <= count; u += 4 * L) f(Tile<T, L, 4>{}, u);
    for (; u + L <= count; u += L) f(Tile<T, L, 1>{}, u);
    if constexpr (L > 8)
        for (; u + 8 <= count; u += 8) f(Tile<T, 8, 1>{}, u);
    if constexpr (L > 4)
        for (; u + 4 <= count; u += 4) f(Tile<T, 4, 1>{}, u);
    for (; u < count; ++u) f(Tile<T, 1, 1>{}, u);
}

}  // namespace EQK_TARGET
}  // namespace eqk
