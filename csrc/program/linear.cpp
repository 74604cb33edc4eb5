#include "linear.hpp"

#include <stdexcept>

namespace eqk {

LinearMap make_linear(const Segments& x, const Segments& z, bool turn, int64_t w_dim, std::vector<LinearPath> paths) {
    LinearMap map;
    map.turn = turn;
    map.x = place(x, map.x_dim);
    map.z = place(z, map.z_dim);
    map.w_dim = w_dim;
    map.paths = std::move(paths);
    for (const LinearPath& p : map.paths) {
        if (p.in < 0 || p.in >= static_cast<int>(x.size()) || p.out < 0 || p.out >= static_cast<int>(z.size()))
            throw std::invalid_argument("a path names a segment that does not exist");
        const Columns &in = map.x[p.in], &out = map.z[p.out];
        if (in.dim != out.dim || in.mul < 1 || out.mul < 1)
            throw std::invalid_argument("a path joins segments of different irreps, or without channels");
        if (p.w < 0 || p.w + in.mul * out.mul > w_dim)
            throw std::invalid_argument("a path's weights lie outside their row");
    }
    return map;
}

}  // namespace eqk
