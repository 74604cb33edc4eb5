#include "spline.hpp"

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
        row += 2 * intervals[p] + 4;
    }
    return pieces;
}

// Factors of d_0, c_1, d_1 and d_2 in the cubic over [0, 1], differentiated.
void basis(double t, int order, double* b) {
    const double s = 1 - t;
    b[1] = order == 0 ? 1 : 0;
    if (order == 0) {
        b[0] = -s * s * s / 6;
        b[2] = (((3 - 2 * t) * t + 3) * t + 1) / 6;
        b[3] = t * t * t / 6;
    } else if (order == 1) {
        b[0] = s * s / 2;
        b[2] = 0.5 + s * t;
        b[3] = t * t / 2;
    } else if (order == 2) {
        b[0] = -s;
        b[2] = s - t;
        b[3] = t;
    } else {
        b[0] = order == 3 ? 1 : 0;
        b[2] = order == 3 ? -2 : 0;
        b[3] = b[0];
    }
}

}  // namespace

template <class T>
void spline(int64_t edges, const T* length, const std::vector<double>& breaks, const std::vector<int64_t>& intervals,
            int order, T* b, int64_t* knot) {
    const std::vector<Piece> pieces = pieces_of(breaks, intervals);
    const double end = breaks.back();
    for (int64_t e = 0; e < edges; ++e) {
        const double r = static_cast<double>(length[e]), inside = r > end ? end : r;
        size_t p = 0;
        while (p + 1 < pieces.size() && inside >= breaks[p + 1]) ++p;
        const Piece& piece = pieces[p];
        const double at = (inside - piece.begin) * piece.steps;
        int64_t interval = at > 0 ? static_cast<int64_t>(at) : 0;  // NaN: the first, with factors that are NaN
        if (interval > piece.last) interval = piece.last;
        double values[kSplineRows], scale = r > end && order > 0 ? 0 : 1;
        basis(at - static_cast<double>(interval), order, values);
        for (int n = 0; n < order; ++n) scale *= piece.steps;
        if (std::isnan(r)) scale = r;
        knot[e] = piece.row + 2 * interval;
        for (int c = 0; c < kSplineRows; ++c) b[e * kSplineRows + c] = static_cast<T>(values[c] * scale);
    }
}

template void spline<float>(int64_t, const float*, const std::vector<double>&, const std::vector<int64_t>&, int, float*,
                            int64_t*);
template void spline<double>(int64_t, const double*, const std::vector<double>&, const std::vector<int64_t>&, int,
                             double*, int64_t*);

}  // namespace eqk
