// Rows between the order outside (e3nn's columns) and inside (components outermost, channels padded to the vector
// length).
#include <algorithm>

#include "buffer.hpp"
#include "contract.hpp"
#include "vector.hpp"

namespace eqk {
namespace EQK_TARGET {

// Lane I of the result: lane I of v, or of `from` where channel and component of that lane say so.
// Split: vector i of D takes component i of each channel from D vectors of columns. Join: the reverse.
template <class T, int D, int To, int From, bool Split, int... I>
EQK_INLINE Vec<T> pick(Vec<T> v, Vec<T> from, std::integer_sequence<int, I...>) {
    constexpr int L = lanes<T>;
    constexpr auto lane = [](int l) {
        const int column = Split ? l * D + To : To * L + l;  // among the L * D columns of L channels
        const int source = Split ? column / L : column % D, at = Split ? column % L : column / D;
        return source == From ? L + at : l;
    };
#if defined(__clang__)
    return __builtin_shufflevector(v, from, lane(I)...);
#else
    using Mask = decltype(v < from);
    constexpr Mask mask = {lane(I)...};
    return __builtin_shuffle(v, from, mask);
#endif
}

template <class T, int D, bool Split, int To, int... From>
EQK_INLINE Vec<T> gather_lanes(const Vec<T>* from, std::integer_sequence<int, From...>) {
    Vec<T> v = from[0];
    ((v = pick<T, D, To, From, Split>(v, from[From], std::make_integer_sequence<int, lanes<T>>{})), ...);
    return v;
}

template <class T, int D, bool Split, int... To>
EQK_INLINE void turn(const Vec<T>* from, Vec<T>* to, std::integer_sequence<int, To...>) {
    ((to[To] = gather_lanes<T, D, Split, To>(from, std::make_integer_sequence<int, D>{})), ...);
}

// Doubles go one by one: g++ 12 gets some of their two-operand shuffles wrong for AVX-512.
template <class T>
constexpr bool TURNED = sizeof(T) == sizeof(float);

template <class T, int D>
EQK_INLINE void split_channels(const T* from, T* to, int64_t mul, int64_t padded) {
    constexpr int L = lanes<T>;
    int64_t u = 0;
    for (; TURNED<T> && u + L <= mul; u += L) {
        Vec<T> in[D], out[D];
        for (int i = 0; i < D; ++i) in[i] = load<T>(from + u * D + i * L);
        turn<T, D, true>(in, out, std::make_integer_sequence<int, D>{});
        for (int i = 0; i < D; ++i) store<T>(to + i * padded + u, out[i]);
    }
    for (; u < mul; ++u)
        for (int i = 0; i < D; ++i) to[i * padded + u] = from[u * D + i];
}

template <class T, int D>
EQK_INLINE void join_channels(const T* from, T* to, int64_t mul, int64_t padded) {
    constexpr int L = lanes<T>;
    int64_t u = 0;
    for (; TURNED<T> && u + L <= mul; u += L) {
        Vec<T> in[D], out[D];
        for (int i = 0; i < D; ++i) in[i] = load<T>(from + i * padded + u);
        turn<T, D, false>(in, out, std::make_integer_sequence<int, D>{});
        for (int i = 0; i < D; ++i) store<T>(to + u * D + i * L, out[i]);
    }
    for (; u < mul; ++u)
        for (int i = 0; i < D; ++i) to[u * D + i] = from[i * padded + u];
}

// One segment of a row inwards, from its first column on; padding becomes zero.
template <class T>
void to_inside(const Placed& s, bool mul_ir, const T* from, T* to) {
    if (!mul_ir || s.dim == 1)
        for (int64_t i = 0; i < s.dim; ++i) std::copy_n(from + i * s.mul, s.mul, to + i * s.padded);
    else if (s.dim == 3)
        split_channels<T, 3>(from, to, s.mul, s.padded);
    else if (s.dim == 5)
        split_channels<T, 5>(from, to, s.mul, s.padded);
    else if (s.dim == 7)
        split_channels<T, 7>(from, to, s.mul, s.padded);
    else
        for (int64_t i = 0; i < s.dim; ++i)
            for (int64_t u = 0; u < s.mul; ++u) to[i * s.padded + u] = from[u * s.dim + i];
    if (s.padded != s.mul)
        for (int64_t i = 0; i < s.dim; ++i) std::fill_n(to + i * s.padded + s.mul, s.padded - s.mul, T(0));
}

// One row inwards.
template <class T>
void to_inside(const std::vector<Placed>& segments, bool mul_ir, const T* from, T* to) {
    for (const Placed& s : segments) to_inside(s, mul_ir, from + s.outside, to + s.inside);
}

// One segment of a row outwards.
template <class T>
void to_outside(const Placed& s, bool mul_ir, const T* from, T* to) {
    if (!mul_ir || s.dim == 1)
        for (int64_t i = 0; i < s.dim; ++i) std::copy_n(from + i * s.padded, s.mul, to + i * s.mul);
    else if (s.dim == 3)
        join_channels<T, 3>(from, to, s.mul, s.padded);
    else if (s.dim == 5)
        join_channels<T, 5>(from, to, s.mul, s.padded);
    else if (s.dim == 7)
        join_channels<T, 7>(from, to, s.mul, s.padded);
    else
        for (int64_t i = 0; i < s.dim; ++i)
            for (int64_t u = 0; u < s.mul; ++u) to[u * s.dim + i] = from[i * s.padded + u];
}

// One row outwards.
template <class T>
void to_outside(const std::vector<Placed>& segments, bool mul_ir, const T* from, T* to) {
    for (const Placed& s : segments) to_outside(s, mul_ir, from + s.inside, to + s.outside);
}

// Rows of `Terms` terms, or of `terms` where that is 0.
template <class T, int W, int Terms>
EQK_INLINE void apply_alike(const Term*& term, const int*& row, const Sparse::Alike& alike, const T* in, T* out) {
    typedef T Side __attribute__((vector_size(W * sizeof(T)), aligned(sizeof(T)), may_alias));
    const int terms = Terms ? Terms : alike.terms;
    for (int n = 0; n < alike.rows; ++n, term += terms) {
        Side sum{};
        for (int k = 0; k < terms; ++k)
            sum += term[k].c<T>() * *reinterpret_cast<const Side*>(in + static_cast<int64_t>(term[k].column) * W);
        *reinterpret_cast<Side*>(out + static_cast<int64_t>(*row++) * W) = sum;
    }
}

// out[row] = sum of c * in[column], for W edges side by side.
template <class T, int W>
void apply(const Sparse& sparse, const T* in, T* out) {
    const Term* term = sparse.terms.data();
    const int* row = sparse.rows.data();
    for (const Sparse::Alike& alike : sparse.alike) {
        if (alike.terms == 1)
            apply_alike<T, W, 1>(term, row, alike, in, out);
        else if (alike.terms == 2)
            apply_alike<T, W, 2>(term, row, alike, in, out);
        else
            apply_alike<T, W, 0>(term, row, alike, in, out);
    }
}

}  // namespace EQK_TARGET
}  // namespace eqk
