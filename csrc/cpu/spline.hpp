// Uniform quintic B-splines on pieces of the real line: which rows of a table a length reads, and their factors.
//
// A piece of n intervals has coefficients c_0 ... c_(n+4), the rows of the table. Degree 5: a few hundred rows are as
// exact as a radial network in float32, few enough for the second-level cache; cubics need thousands.
#pragma once

#include <cstdint>
#include <vector>

namespace eqk {

constexpr int kSplineRows = 6;

// Piece p reaches from breaks[p] to breaks[p + 1] in intervals[p] steps. Of each length: knot, the first of the six
// rows it reads, and b (edges, 6), their factors, differentiated `order` times. Below the first break the first
// polynomial goes on; from the last on, the value of the last holds. Throws std::invalid_argument for breaks that do
// not rise.
template <class T>
void spline(int64_t edges, const T* length, const std::vector<double>& breaks, const std::vector<int64_t>& intervals,
            int order, T* b, int64_t* knot);

}  // namespace eqk
