#include "spline.hpp"

#include <stdexcept>

#include "dispatch.hpp"

namespace eqk {

namespace {

std::vector<SplinePiece> pieces_of(const std::vector<double>& breaks, const std::vector<int64_t>& intervals) {
    if (intervals.empty() || breaks.size() != intervals.size() + 1)
        throw std::invalid_argument("a spline has one break more than it has pieces");
    std::vector<SplinePiece> pieces;
    int64_t row = 0;
    for (size_t p = 0; p < intervals.size(); ++p) {
        if (!(breaks[p] < breaks[p + 1]) || intervals[p] < 1)
            throw std::invalid_argument("the breaks of a spline rise, and every piece has an interval");
        const double steps = double(intervals[p]) / (breaks[p + 1] - breaks[p]);
        pieces.push_back({breaks[p], breaks[p + 1], steps, intervals[p] - 1, row});
        row += 2 * intervals[p] + 12;
    }
    return pieces;
}

// The factors of the rows of an interval, 5040 times their coefficients of t^0 ... t^7, t in [0, 1].
constexpr double polynomials[kSplineRows][kSplineRows] = {
    {-1, -121, -1312, -3728, 5040, 121, 1, 0}, {7, 399, 2114, 2114, 0, 399, 7, 0},
    {-21, -525, -840, 840, 0, 525, 21, 0},     {35, 315, -350, -350, 0, 315, 35, 0},
    {-35, -35, 280, -280, 0, 35, 35, 0},       {21, -63, 42, 42, 0, -63, 21, 0},
    {-7, 35, -70, 70, 0, -35, 7, 0},           {1, -6, 15, -20, 0, 15, -6, 1},
};

// Their `order`-th derivatives.
SplineCoefficients derived(int order) {
    SplineCoefficients c{};
    for (int power = order; power < kSplineRows; ++power) {
        double factor = 1.0 / 5040;
        for (int n = 0; n < order; ++n) factor *= power - n;
        for (int k = 0; k < kSplineRows; ++k) c[power - order][k] = factor * polynomials[power][k];
    }
    return c;
}

}  // namespace

template <class T>
void spline(int64_t edges, const T* length, const std::vector<double>& breaks, const std::vector<int64_t>& intervals,
            int order, T* b, int64_t* knot) {
    const SplinePieces pieces{pieces_of(breaks, intervals), derived(order), order};
    const SplineKernels& kernels = *active().spline;
    if constexpr (sizeof(T) == sizeof(float))
        kernels.single_precision(pieces, edges, length, b, knot);
    else
        kernels.double_precision(pieces, edges, length, b, knot);
}

template void spline<float>(int64_t, const float*, const std::vector<double>&, const std::vector<int64_t>&, int, float*,
                            int64_t*);
template void spline<double>(int64_t, const double*, const std::vector<double>&, const std::vector<int64_t>&, int,
                             double*, int64_t*);

}  // namespace eqk
