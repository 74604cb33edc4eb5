// The inner loop of spline.cpp: all eight factors of a length are one vector.
#include <cmath>

#include "spline.hpp"

namespace eqk {
namespace EQK_TARGET {

namespace {

typedef double Factors __attribute__((vector_size(kSplineRows * sizeof(double))));
template <class T>
struct Rounded {
    typedef T type __attribute__((vector_size(kSplineRows * sizeof(T)), aligned(sizeof(T)), may_alias));
};

template <class T>
void spline(const SplinePieces& s, int64_t edges, const T* length, T* b, int64_t* knot) {
    const double end = s.pieces.back().end;
    Factors coefficients[kSplineRows];
    for (int power = 0; power < kSplineRows; ++power)
        for (int c = 0; c < kSplineRows; ++c) coefficients[power][c] = s.coefficients[power][c];
    for (int64_t e = 0; e < edges; ++e) {
        const double r = static_cast<double>(length[e]), inside = r > end ? end : r;
        const SplinePiece* piece = s.pieces.data();
        while (inside >= piece->end && piece != &s.pieces.back()) ++piece;
        const double at = (inside - piece->begin) * piece->steps;
        int64_t interval = at > 0 ? static_cast<int64_t>(at) : 0;  // NaN: the first, with factors that are NaN
        if (interval > piece->last) interval = piece->last;
        const double t = at - static_cast<double>(interval);
        Factors values = coefficients[kSplineRows - 1];
        for (int power = kSplineRows - 2; power >= 0; --power) values = values * t + coefficients[power];
        double scale = r > end && s.order > 0 ? 0 : 1;
        for (int n = 0; n < s.order; ++n) scale *= piece->steps;
        if (std::isnan(r)) scale = r;
        knot[e] = piece->row + 2 * interval;
        using Row = typename Rounded<T>::type;
        *reinterpret_cast<Row*>(b + e * kSplineRows) = __builtin_convertvector(values * scale, Row);
    }
}

}  // namespace

extern const SplineKernels spline_kernels;
const SplineKernels spline_kernels{spline<float>, spline<double>};

}  // namespace EQK_TARGET
}  // namespace eqk
