// Uniform B-splines of degree 7 on pieces of the real line: which rows of a table a length reads, and their factors.
//
// A piece of n intervals has coefficients c_0 ... c_(n+6). Its 2n + 12 rows of the table are, by turns, their
// differences d_j = c_(j+1) - c_j and c_(j+1). A length in interval j reads d_j ... d_(j+6) and c_(j+4): slopes are
// then sums of differences, with the relative precision of these, where sums of rounded coefficients would cancel. The
// degree is high for the sake of a small table, one that stays in the second-level cache: a hundred intervals do what
// cubics do with a thousand.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace eqk {

constexpr int kSplineRows = 8;

struct SplinePiece {
    double begin, end, steps;  // steps per unit of length
    int64_t last, row;         // last interval, first row
};

// Of the factors of the rows of an interval: coefficients of t^0 ... t^7, t in [0, 1].
using SplineCoefficients = std::array<std::array<double, kSplineRows>, kSplineRows>;

struct SplinePieces {
    std::vector<SplinePiece> pieces;
    SplineCoefficients coefficients;  // differentiated `order` times
    int order;
};

template <class T>
using SplineKernel = void (*)(const SplinePieces&, int64_t edges, const T* length, T* b, int64_t* knot);

struct SplineKernels {
    SplineKernel<float> single_precision;
    SplineKernel<double> double_precision;
};

// Piece p reaches from breaks[p] to breaks[p + 1] in intervals[p] steps. Of each length: knot, the first of the eight
// rows it reads, and b (edges, 8), their factors, differentiated `order` times. Below the first break the first
// polynomial goes on; from the last on, the value of the last holds. Throws std::invalid_argument for breaks that do
// not rise.
template <class T>
void spline(int64_t edges, const T* length, const std::vector<double>& breaks, const std::vector<int64_t>& intervals,
            int order, T* b, int64_t* knot);

}  // namespace eqk
