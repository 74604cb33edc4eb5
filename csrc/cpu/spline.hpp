// Uniform cubic B-splines on pieces of the real line: which rows of a table a length reads, and their factors.
//
// A piece of n intervals has coefficients c_0 ... c_(n+2). Its 2n + 4 rows of the table are, by turns, their
// differences d_j = c_(j+1) - c_j and c_(j+1): slopes are then sums of differences, with the relative precision of
// these, where sums of rounded coefficients would cancel (in float32 a slope would be lost to 1e-5 of the value at 340
// intervals a unit).
#pragma once

#include <cstdint>
#include <vector>

namespace eqk {

constexpr int kSplineRows = 4;

// Piece p reaches from breaks[p] to breaks[p + 1] in intervals[p] steps. Of each length: knot, the first of its four
// rows (the others are 1, 2 and 4 behind it), and b (edges, 4), their factors, differentiated `order` times.
// Below the first break the first polynomial goes on; from the last on, the value of the last holds.
// Throws std::invalid_argument for breaks that do not rise.
template <class T>
void spline(int64_t edges, const T* length, const std::vector<double>& breaks, const std::vector<int64_t>& intervals,
            int order, T* b, int64_t* knot);

}  // namespace eqk
