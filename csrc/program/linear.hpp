// A linear map between equal irreps as a flat table.
#pragma once

#include <cstdint>
#include <vector>

#include "coupling.hpp"

namespace eqk {

// Channels of segment `in` of x to those of segment `out` of z, by the matrix (in, out) from column w on.
struct LinearPath {
    int in, out;
    int64_t w;
    double scale;
};

struct LinearMap {
    std::vector<Columns> x, z;
    bool turn;  // channels are outermost outside; inside, components are
    int64_t x_dim, z_dim, w_dim;
    std::vector<LinearPath> paths;
};

// Throws std::invalid_argument if the tables contradict themselves.
LinearMap make_linear(const Segments& x, const Segments& z, bool turn, int64_t w_dim, std::vector<LinearPath> paths);

}  // namespace eqk
