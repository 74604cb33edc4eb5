#include "spline.hpp"

#include <array>
#include <cmath>
#include <stdexcept>

namespace eqk {

namespace {

struct Piece {
    double begin, steps;  // steps per unit of length
    int64_t last, row;    // last interval, first row
};

std::vector<Piece> pieces_of(const std::vector<double>& breaks, const std::vector<int64_t>& intervals) {
    if (intervals.empty() || breaks.size() != intervals.size() + 1)
        throw std::invalid_argument("a spline has one break more than it has pieces");
    std::vector<Piece> pieces;
    int64_t row = 0;
    for (size_t p = 0; p < intervals.size(); ++p) {
        if (!(breaks[p] < breaks[p + 1]) || intervals[p] < 1)
            throw std::invalid_argument("the breaks of a spline rise, and every piece has an interval");
        pieces.push_back({breaks[p], double(intervals[p]) / (breaks[p + 1] - breaks[p]), intervals[p] - 1, row});
        row += intervals[p] + kSplineRows - 1;
    }
    return pieces;
}

// The factors of c_0 ... c_5 in the quintic over [0, 1], 120 times their coefficients of t^0 ... t^5.
constexpr double quintics[6][kSplineRows] = {
    {1, 26, 66, 26, 1, 0},    {-5, -50, 0, 50, 5, 0},  {10, 20, -60, 20, 10, 0},
    {-10, 20, 0, -20, 10, 0}, {5, -20, 30, -20, 5, 0}, {-1, 5, -10, 10, -5, 1},
};

// Their `order`-th derivatives: coefficients of t^0 ... t^5.
std::array<std::array<double, kSplineRows>, 6> derived(int order) {
    std::array<std::array<double, kSplineRows>, 6> c{};
    for (int power = order; power < 6; ++power) {
        double factor = 1.0 / 120;
        for (int n = 0; n < order; ++n) factor *= power - n;
        for (int k = 0; k < kSplineRows; ++k) c[power - order][k] = factor * quintics[power][k];
    }
    return c;
}

}  // namespace

template <class T>
void spline(int64_t edges, const T* length, const std::vector<double>& breaks, const std::vector<int64_t>& intervals,
            int order, T* b, int64_t* knot) {
    const std::vector<Piece> pieces = pieces_of(breaks, intervals);
    const auto coefficients = derived(order);
    const double end = breaks.back();
    for (int64_t e = 0; e < edges; ++e) {
        const double r = static_cast<double>(length[e]), inside = r > end ? end : r;
        size_t p = 0;
        while (p + 1 < pieces.size() && inside >= breaks[p + 1]) ++p;
        const Piece& piece = pieces[p];
        const double at = (inside - piece.begin) * piece.steps;
        int64_t interval = at > 0 ? static_cast<int64_t>(at) : 0;  // NaN: the first, with factors that are NaN
        if (interval > piece.last) interval = piece.last;
        const double t = at - static_cast<double>(interval);
        double scale = r > end && order > 0 ? 0 : 1, values[kSplineRows] = {};
        for (int power = 5; power >= 0; --power)
            for (int c = 0; c < kSplineRows; ++c) values[c] = values[c] * t + coefficients[power][c];
        for (int n = 0; n < order; ++n) scale *= piece.steps;
        if (std::isnan(r)) scale = r;
        knot[e] = piece.row + interval;
        for (int c = 0; c < kSplineRows; ++c) b[e * kSplineRows + c] = static_cast<T>(values[c] * scale);
    }
}

template void spline<float>(int64_t, const float*, const std::vector<double>&, const std::vector<int64_t>&, int, float*,
                            int64_t*);
template void spline<double>(int64_t, const double*, const std::vector<double>&, const std::vector<int64_t>&, int,
                             double*, int64_t*);

}  // namespace eqk
