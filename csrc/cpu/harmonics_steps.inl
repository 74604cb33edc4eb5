// The recursions of harmonics.hpp on vectors of edges: the factors of the harmonics, their change along a direction,
// and the gradient of G = sum_j z_j Y_j with its change.
#pragma once

#include <limits>
#include <type_traits>

#include "harmonics.hpp"
#include "vector.hpp"

namespace eqk {
namespace EQK_TARGET {
namespace harmonics {
namespace {

// A number that the compiler knows: loops between such numbers are unrolled and indices fold.
template <int N>
using Const = std::integral_constant<int, N>;

#define EQK_INLINED __attribute__((always_inline))

template <int First, int Last, class F>
EQK_INLINE void each(Const<First>, Const<Last>, F&& f) {
    if constexpr (First <= Last) {
        f(Const<First>{});
        each(Const<First + 1>{}, Const<Last>{}, f);
    }
}
template <class F>
EQK_INLINE void each(int first, int last, F&& f) {
    for (int i = first; i <= last; ++i) f(i);
}

template <int N>
constexpr Const<N + 1> after(Const<N>) {
    return {};
}
constexpr int after(int n) { return n + 1; }

template <class Degree>
EQK_INLINE Degree degree(const HarmonicsTable& table) {
    if constexpr (std::is_same_v<Degree, int>)
        return table.lmax;
    else
        return {};
}

template <class Degree>
constexpr int kLargest = Degree::value;
template <>
constexpr int kLargest<int> = kMaxDegree;

template <typename T>
inline const HarmonicsPair<T>* pairs_of(const HarmonicsTable& table);
template <>
inline const HarmonicsPair<float>* pairs_of<float>(const HarmonicsTable& table) {
    return table.pairs_float;
}
template <>
inline const HarmonicsPair<double>* pairs_of<double>(const HarmonicsTable& table) {
    return table.pairs;
}

template <typename V>
EQK_INLINE V dot(const V* a, const V* b) {
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

// A value of N lanes in memory that vectors are loaded from whole.
template <typename T>
struct alignas(EQK_VECTOR_BYTES) Packed {
    T lane[lanes<T>];
    Vec<T>& vector() { return *reinterpret_cast<Vec<T>*>(lane); }
};

template <typename T>
struct Bits;
template <>
struct Bits<float> {
    using Word = int32_t;
    static constexpr int mantissa = 23, largest = 254;
};
template <>
struct Bits<double> {
    using Word = int64_t;
    static constexpr int mantissa = 52, largest = 2046;
};

// v becomes v/|v| and the result is 1/|v|; both are zero for a zero (or subnormal) vector. Scaled by the power of two
// of the largest component first, so that no square over- or underflows. NaN stays NaN.
template <typename T>
EQK_INLINE Vec<T> to_unit(Vec<T>* v) {
    using V = Vec<T>;
    using B = Bits<T>;
    using Word = typename B::Word;
    typedef Word Words __attribute__((vector_size(EQK_VECTOR_BYTES)));
    // Squares that neither overflow nor lose digits: no scaling, which would change no bit.
    constexpr T small = sizeof(T) == 4 ? T(0x1p-90) : T(0x1p-900);
    Packed<T> length;
    length.vector() = dot(v, v);
    if (all(length.vector() > small) && all(length.vector() < 1 / small)) {
        for (T& x : length.lane) x = sizeof(T) == 4 ? __builtin_sqrtf(x) : __builtin_sqrt(x);
        const V inverse = 1 / length.vector();
        for (int a = 0; a < 3; ++a) v[a] *= inverse;
        return inverse;
    }
    // The bits of positive numbers are ordered like the numbers.
    const auto words = [](V x) EQK_INLINED {
        return reinterpret_cast<Words>(x) & (Words{} + std::numeric_limits<Word>::max());
    };
    Words largest = words(v[0]);
    for (int a = 1; a < 3; ++a) largest = words(v[a]) > largest ? words(v[a]) : largest;
    Words exponent = largest >> B::mantissa;
    const Words zero = exponent == 0;
    exponent = exponent > B::largest - 1 ? Words{} + Word(B::largest - 1) : exponent;
    const V power = reinterpret_cast<V>((B::largest - exponent) << B::mantissa & ~zero);
    for (int a = 0; a < 3; ++a) v[a] *= power;
    Packed<T> root;
    root.vector() = dot(v, v);
    for (T& x : root.lane) x = sizeof(T) == 4 ? __builtin_sqrtf(x) : __builtin_sqrt(x);
    const V inverse = zero ? V{} : 1 / root.vector();
    for (int a = 0; a < 3; ++a) v[a] *= inverse;
    return inverse * power;
}

// P_lm at pair(l, m), c_m and s_m.
template <typename T, class Degree>
struct Solid {
    Vec<T> p[pair(kLargest<Degree> + 1, 0)], c[kLargest<Degree> + 1], s[kLargest<Degree> + 1];
    const HarmonicsPair<T>* pairs;

    EQK_INLINED Solid(const HarmonicsTable& table, Degree lmax, const Vec<T>* v) : pairs(pairs_of<T>(table)) {
        const Vec<T> ring = v[0] * v[0] + v[2] * v[2];
        c[0] = Vec<T>{} + T(1), s[0] = Vec<T>{};
        each(Const<0>{}, lmax, [&](auto l) EQK_INLINED {
            if (l == 1) c[l] = v[2], s[l] = v[0];
            if (l > 1) c[l] = c[l - 1] * v[2] - s[l - 1] * v[0], s[l] = s[l - 1] * v[2] + c[l - 1] * v[0];
            each(Const<0>{}, l, [&](auto m) EQK_INLINED {
                const HarmonicsPair<T>& k = pairs[pair(l, m)];
                p[pair(l, m)] = m < l ? k.next * v[1] * p[pair(l - 1, m)] : Vec<T>{} + k.next;
                if (m + 1 < l) p[pair(l, m)] -= k.last * ring * p[pair(l - 1, m + 1)];
            });
        });
    }
};

// The derivative of a Solid along a direction h.
template <typename T, class Degree>
struct Change {
    Vec<T> p[pair(kLargest<Degree> + 1, 0)], c[kLargest<Degree> + 1], s[kLargest<Degree> + 1];

    EQK_INLINED Change(const Solid<T, Degree>& at, Degree lmax, const Vec<T>* v, const Vec<T>* h) {
        const Vec<T> ring = v[0] * h[0] + v[2] * h[2];
        each(Const<0>{}, lmax, [&](auto m) EQK_INLINED {
            c[m] = s[m] = Vec<T>{};
            if (m > 0) c[m] = T(m) * (at.c[m - 1] * h[2] - at.s[m - 1] * h[0]);
            if (m > 0) s[m] = T(m) * (at.s[m - 1] * h[2] + at.c[m - 1] * h[0]);
            p[pair(m, m)] = Vec<T>{};
            each(after(m), lmax, [&](auto l) EQK_INLINED {
                const HarmonicsPair<T>& k = at.pairs[pair(l, m)];
                p[pair(l, m)] = k.polar * h[1] * at.p[pair(l - 1, m)];
                if (l > m + 1) p[pair(l, m)] -= k.ring * ring * at.p[pair(l - 1, m + 1)];
            });
        });
    }
};

// g = dG/dv.
template <typename T, class Degree>
EQK_INLINE void gradient(const Solid<T, Degree>& at, Degree lmax, const Vec<T>* v, const Vec<T>* z, Vec<T>* g) {
    Vec<T> ring{};
    for (int a = 0; a < 3; ++a) g[a] = Vec<T>{};
    each(Const<0>{}, lmax, [&](auto m) EQK_INLINED {
        Vec<T> plus{}, minus{};  // dG/dc_m, dG/ds_m
        each(m, lmax, [&](auto l) EQK_INLINED {
            const HarmonicsPair<T>& k = at.pairs[pair(l, m)];
            const Vec<T> zp = z[l * l + l + m], zm = z[l * l + l - m];
            const Vec<T> slope = m > 0 ? zp * at.c[m] + zm * at.s[m] : zp;  // dG/dP_lm
            plus += at.p[pair(l, m)] * zp;
            minus += at.p[pair(l, m)] * zm;
            if (l > m) g[1] += k.polar * at.p[pair(l - 1, m)] * slope;
            if (l > m + 1) ring += k.ring * at.p[pair(l - 1, m + 1)] * slope;
        });
        if (m > 0) {
            g[0] += T(m) * (at.c[m - 1] * minus - at.s[m - 1] * plus);
            g[2] += T(m) * (at.c[m - 1] * plus + at.s[m - 1] * minus);
        }
    });
    g[0] -= v[0] * ring;
    g[2] -= v[2] * ring;
}

// g = dG/dv and dg, its derivative along h.
template <typename T, class Degree>
EQK_INLINE void gradient_change(const Solid<T, Degree>& at, const Change<T, Degree>& d, Degree lmax, const Vec<T>* v,
                                const Vec<T>* h, const Vec<T>* z, Vec<T>* g, Vec<T>* dg) {
    Vec<T> ring{}, dring{};
    for (int a = 0; a < 3; ++a) g[a] = dg[a] = Vec<T>{};
    each(Const<0>{}, lmax, [&](auto m) EQK_INLINED {
        Vec<T> plus{}, minus{}, dplus{}, dminus{};
        each(m, lmax, [&](auto l) EQK_INLINED {
            const HarmonicsPair<T>& k = at.pairs[pair(l, m)];
            const Vec<T> zp = z[l * l + l + m], zm = z[l * l + l - m];
            const Vec<T> slope = m > 0 ? zp * at.c[m] + zm * at.s[m] : zp;
            const Vec<T> dslope = zp * d.c[m] + zm * d.s[m];
            plus += at.p[pair(l, m)] * zp;
            minus += at.p[pair(l, m)] * zm;
            dplus += d.p[pair(l, m)] * zp;
            dminus += d.p[pair(l, m)] * zm;
            if (l > m) {
                const Vec<T> polar = k.polar * at.p[pair(l - 1, m)], dpolar = k.polar * d.p[pair(l - 1, m)];
                g[1] += polar * slope;
                dg[1] += dpolar * slope + polar * dslope;
            }
            if (l > m + 1) {
                const Vec<T> around = k.ring * at.p[pair(l - 1, m + 1)], daround = k.ring * d.p[pair(l - 1, m + 1)];
                ring += around * slope;
                dring += daround * slope + around * dslope;
            }
        });
        if (m > 0) {
            const Vec<T> c = T(m) * at.c[m - 1], s = T(m) * at.s[m - 1];
            const Vec<T> dc = T(m) * d.c[m - 1], ds = T(m) * d.s[m - 1];
            g[0] += c * minus - s * plus;
            g[2] += c * plus + s * minus;
            dg[0] += c * dminus - s * dplus + dc * minus - ds * plus;
            dg[2] += c * dplus + s * dminus + dc * plus + ds * minus;
        }
    });
    for (int a = 0; a < 3; a += 2) {
        g[a] -= v[a] * ring;
        dg[a] -= v[a] * dring + h[a] * ring;
    }
}

}  // namespace
}  // namespace harmonics
}  // namespace EQK_TARGET
}  // namespace eqk
