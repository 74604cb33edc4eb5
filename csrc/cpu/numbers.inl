// Vectors of numbers with elementary functions, and dual numbers: a value with its derivative along one direction.
// Arithmetic that is written once for `Num<T, D>` runs on values (D false) or on values with tangents (D true).
#pragma once

#include <cmath>
#include <cstring>
#include <type_traits>

#include "vector.hpp"

namespace eqk {
namespace EQK_TARGET {

// e^x, to about one unit in the last place: x = k ln 2 + r, the series of e^r, |r| <= ln 2 / 2, times 2^k.
// Outside the range of normal numbers the result is that of its end; NaN stays.
template <class T>
EQK_INLINE Vec<T> exponential(Vec<T> x) {
    using Int = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
    typedef Int Ints __attribute__((vector_size(EQK_VECTOR_BYTES)));
    constexpr bool single = sizeof(T) == 4;
    constexpr int mantissa = single ? 23 : 52, bias = single ? 127 : 1023, terms = single ? 7 : 13;
    constexpr T highest = single ? T(88) : T(709), lowest = single ? T(-87) : T(-708);
    constexpr T ln2_high = single ? T(0.693359375) : T(0.693147180369123816490);
    constexpr T ln2_low = single ? T(-2.12194440054690583e-4) : T(1.90821492927058770002e-10);
    // Adding it rounds to an integer, which is then in the last bits.
    constexpr T shift = T(3) * T(int64_t(1) << (mantissa - 1));
    x = x > highest ? spread<T>(highest) : x;
    x = x < lowest ? spread<T>(lowest) : x;
    const Vec<T> shifted = x * T(1.44269504088896340736) + shift;
    const Vec<T> k = shifted - shift;
    const Vec<T> r = (x - k * ln2_high) - k * ln2_low;
    Vec<T> series = spread<T>(1);
#pragma GCC unroll 16
    for (int n = terms; n > 0; --n) series = series * (r * (T(1) / T(n))) + T(1);
    Ints bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    const Vec<T> offset = spread<T>(shift);
    Ints zero;
    std::memcpy(&zero, &offset, sizeof zero);
    bits = (bits - zero + Int(bias)) << mantissa;
    Vec<T> scale;
    std::memcpy(&scale, &bits, sizeof scale);
    return series * scale;
}

template <class T>
EQK_INLINE Vec<T> root(Vec<T> x) {
    Vec<T> r;
    for (int n = 0; n < lanes<T>; ++n) r[n] = std::sqrt(x[n]);
    return r;
}

// A value (D false), or a value with a tangent.
template <class T, bool D>
struct Num;
template <class T>
struct Num<T, false> {
    Vec<T> v;
};
template <class T>
struct Num<T, true> {
    Vec<T> v, t;
};

template <class T>
EQK_INLINE Num<T, false> operator+(Num<T, false> a, Num<T, false> b) {
    return {a.v + b.v};
}
template <class T>
EQK_INLINE Num<T, true> operator+(Num<T, true> a, Num<T, true> b) {
    return {a.v + b.v, a.t + b.t};
}
template <class T>
EQK_INLINE Num<T, false> operator*(Num<T, false> a, Num<T, false> b) {
    return {a.v * b.v};
}
template <class T>
EQK_INLINE Num<T, true> operator*(Num<T, true> a, Num<T, true> b) {
    return {a.v * b.v, a.v * b.t + a.t * b.v};
}

// f of a number, from the values of f and f' there.
template <class T>
EQK_INLINE Num<T, false> chain(Num<T, false>, Vec<T> f, Vec<T>) {
    return {f};
}
template <class T>
EQK_INLINE Num<T, true> chain(Num<T, true> x, Vec<T> f, Vec<T> slope) {
    return {f, slope * x.t};
}

template <class T, bool D>
EQK_INLINE Num<T, D> root(Num<T, D> x) {
    const Vec<T> r = root<T>(x.v);
    return chain<T>(x, r, T(0.5) / r);
}
template <class T, bool D>
EQK_INLINE Num<T, D> inverse(Num<T, D> x) {
    const Vec<T> r = T(1) / x.v;
    return chain<T>(x, r, -r * r);
}
template <class T, bool D>
EQK_INLINE Num<T, D> silu(Num<T, D> x) {
    const Vec<T> s = T(1) / (T(1) + exponential<T>(-x.v));
    return chain<T>(x, x.v * s, s + x.v * s * (T(1) - s));
}
template <class T, bool D>
EQK_INLINE Num<T, D> silu_slope(Num<T, D> x) {
    const Vec<T> s = T(1) / (T(1) + exponential<T>(-x.v)), c = s * (T(1) - s);
    return chain<T>(x, s + x.v * c, c * (T(2) + x.v * (T(1) - T(2) * s)));
}

// Values at p, tangents `half` further.
template <class T, bool D>
EQK_INLINE Num<T, D> get(const T* p, int64_t half) {
    if constexpr (D)
        return {load(p), load(p + half)};
    else
        return {load(p)};
}
template <class T>
EQK_INLINE void put(T* p, int64_t, Num<T, false> x) {
    store(p, x.v);
}
template <class T>
EQK_INLINE void put(T* p, int64_t half, Num<T, true> x) {
    store(p, x.v);
    store(p + half, x.t);
}
template <class T, bool D>
EQK_INLINE Num<T, D> fixed(T value, T tangent) {
    if constexpr (D)
        return {spread<T>(value), spread<T>(tangent)};
    else
        return {spread<T>(value)};
}

}  // namespace EQK_TARGET
}  // namespace eqk
