// The rows of a table that a length reads, and their factors (`equikern/ops/spline.py`): a thread has a length. Where
// it lies is worked out in double: an interval is a few hundredths of the whole.
#pragma once

#include "lanes.cuh"

namespace eqk {

template <class T>
struct Lengths {
    const T* r;
    const double* pieces;  // where it begins, intervals per unit, the last interval, the first row; at last, the end
    T* b;
    Index* knot;
    Index edges;
};

/// A polynomial in t, its constant first.
template <class T>
EQK_DEVICE T polynomial(T, T constant) {
    return constant;
}
template <class T, class... Rest>
EQK_DEVICE T polynomial(T t, T constant, Rest... rest) {
    return constant + t * polynomial(t, rest...);
}

/// The factors, ORDER times differentiated: `factors(t, scale, to)` writes eight polynomials of the place t in an
/// interval, times scale; they are WHOLE times the factors. NaN lies in the first interval, with factors that are NaN;
/// beyond the end all stays constant.
template <int PIECES, int ORDER, int WHOLE, class T, class Factors>
EQK_DEVICE void spline(const Lengths<T>& in, Index edge, Factors&& factors) {
    if (edge >= in.edges) return;
    const double length = double(in.r[edge]), end = in.pieces[4 * PIECES];
    const bool beyond = length > end;
    const double inside = beyond ? end : length;
    const double* piece = in.pieces;
#pragma unroll
    for (int p = 1; p < PIECES; ++p)
        if (inside >= in.pieces[4 * p]) piece = in.pieces + 4 * p;
    const double steps = piece[1], last = piece[2], place = (inside - piece[0]) * steps;
    const Index interval = place > 0 ? Index(place < last ? place : last) : 0;
    in.knot[edge] = Index(piece[3]) + 2 * interval;
    double scale = 1.0 / WHOLE;
#pragma unroll
    for (int n = 0; n < ORDER; ++n) scale *= steps;
    if (ORDER > 0 && beyond) scale = 0;
    if (length != length) scale = not_a_number<double>();
    alignas(16) T made[8];
    factors(T(place - double(interval)), T(scale), made);
    constexpr int AT_ONCE = 16 / sizeof(T);
#pragma unroll
    for (int n = 0; n < 8; n += AT_ONCE)
        *reinterpret_cast<Pack<T, AT_ONCE>*>(in.b + 8 * edge + n) = reinterpret_cast<const Pack<T, AT_ONCE>&>(made[n]);
}

}  // namespace eqk
