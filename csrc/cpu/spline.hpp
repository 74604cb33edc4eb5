// Uniform cubic B-splines on pieces of the real line: which rows of a table a length reads, and their factors.
#pragma once

#include <cstdint>
#include <vector>

namespace eqk {

constexpr int kSplineRows = 4;

// Piece p reaches from breaks[p] to breaks[p + 1] in intervals[p] steps and owns intervals[p] + 3 rows. Of each length:
// knot, the first of its four rows, and b (edges, 4), their factors, differentiated `order` times by the length.
// Below the first break the first polynomial goes on; from the last on, the value of the last holds.
// Throws std::invalid_argument for breaks that do not rise.
template <class T>
void spline(int64_t edges, const T* length, const std::vector<double>& breaks, const std::vector<int64_t>& intervals,
            int order, T* b, int64_t* knot);

}  // namespace eqk
