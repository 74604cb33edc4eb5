#include "coupling.hpp"

#include <algorithm>
#include <stdexcept>
#include <tuple>

namespace eqk {

namespace {

void require(bool condition, const char* what) {
    if (!condition) throw std::invalid_argument(what);
}

// Whether the two orders of columns differ.
bool differ(const std::vector<Columns>& segments) {
    return std::any_of(segments.begin(), segments.end(), [](const Columns& s) { return s.mul > 1 && s.dim > 1; });
}

const Columns& segment(const std::vector<Columns>& segments, int n) {
    require(n >= 0 && n < static_cast<int>(segments.size()), "a path names a segment that does not exist");
    return segments[n];
}

void check(const PathTable& p, const Columns& x, const Columns& y, const Columns& z, int64_t w_dim) {
    for (const Cell& c : p.cells)
        require(c.i >= 0 && c.i < x.dim && c.j >= 0 && c.j < y.dim && c.k >= 0 && c.k < z.dim,
                "a coefficient lies outside its path");
    require(p.lanes != Lanes::both || p.runs.size() == 1, "equal channels are one run");
    const int64_t wide = p.lanes == Lanes::both ? std::min(x.mul, y.mul) : p.lanes == Lanes::x ? x.mul : y.mul;
    const int64_t others = p.lanes == Lanes::both ? 1 : p.lanes == Lanes::x ? y.mul : x.mul;
    for (const Run& r : p.runs) {
        require(r.scalar >= 0 && r.scalar < others, "a run reads a channel that does not exist");
        require(r.begin >= 0 && r.count >= 0 && r.begin + r.count <= wide, "a run reads beyond its lanes");
        require(r.out >= 0 && r.out + r.count <= z.mul, "a run writes beyond its output");
        require(p.w < 0 || (r.w >= 0 && p.w + r.w + r.count <= w_dim), "a run reads beyond the weights");
        require(p.lanes != Lanes::both || (r.begin == 0 && r.w == 0), "equal channels begin at the first");
    }
    const auto [rows, columns] = p.turned;
    require(rows >= 0 && columns >= 0 && (rows * columns == 0 || (p.w >= 0 && p.w + rows * columns <= w_dim)),
            "turned weights lie beyond the weights");
}

// The entries (a, k) of M in order of k, and their sources.
void lower(const PathTable& p, Coupled& path) {
    std::vector<std::tuple<int, int, int, double>> all;  // k, a, b, c
    for (const Cell& c : p.cells)
        all.emplace_back(c.k, p.lanes == Lanes::x ? c.i : c.j, p.lanes == Lanes::x ? c.j : c.i, c.c);
    std::sort(all.begin(), all.end());
    for (const auto& [k, a, b, c] : all) {
        if (path.entries.empty() || path.entries.back().k != k || path.entries.back().a != a)
            path.entries.push_back({a, k});
        path.sources.push_back({static_cast<int>(path.entries.size()) - 1, b, c});
    }
}

}  // namespace

std::vector<Columns> place(const Segments& segments, int64_t& columns) {
    std::vector<Columns> placed;
    columns = 0;
    for (const auto& [mul, dim] : segments) {
        require(mul >= 0 && dim >= 1, "a segment has a negative multiplicity or no component");
        placed.push_back({mul, dim, columns});
        columns += mul * dim;
    }
    return placed;
}

Coupling make_coupling(const Segments& x, const Segments& y, const Segments& z, bool turn_xy, bool turn_z,
                       int64_t w_dim, std::vector<PathTable> paths) {
    Coupling made{};
    made.x = place(x, made.x_dim);
    made.y = place(y, made.y_dim);
    made.z = place(z, made.z_dim);
    made.turn_x = turn_xy && differ(made.x);
    made.turn_y = turn_xy && differ(made.y);
    made.turn_z = turn_z && differ(made.z);
    made.w_dim = w_dim;
    for (PathTable& p : paths) {
        const Columns &sx = segment(made.x, p.in1), &sy = segment(made.y, p.in2), &sz = segment(made.z, p.out);
        check(p, sx, sy, sz, w_dim);
        Coupled path{p.lanes, sx.begin,       sy.begin,        sz.begin,          sx.mul, sy.mul, sz.mul,
                     p.w,     p.turned.first, p.turned.second, std::move(p.runs), {},     {},     {}};
        if (p.lanes == Lanes::both) {
            path.cells = std::move(p.cells);
            std::stable_sort(path.cells.begin(), path.cells.end(),
                             [](const Cell& a, const Cell& b) { return a.k < b.k; });
        } else {
            lower(p, path);
        }
        made.turn_w |= path.turned_rows > 0 && path.turned_columns > 0;
        made.most_entries = std::max<int64_t>(made.most_entries, path.entries.size());
        made.paths.push_back(std::move(path));
    }
    return made;
}

}  // namespace eqk
