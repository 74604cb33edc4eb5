#include "tables.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <stdexcept>
#include <utility>

namespace eqk {

namespace {

int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

std::vector<Placed> place(const std::vector<Segment>& segments, int64_t vl, int64_t& outside, int64_t& inside) {
    std::vector<Placed> placed;
    outside = inside = 0;
    for (const Segment& s : segments) {
        if (s.mul < 0 || s.dim < 1)
            throw std::invalid_argument("a segment has a negative multiplicity or no component");
        placed.push_back({s.mul, s.dim, round_up(s.mul, vl), outside, inside});
        outside += s.mul * s.dim;
        inside += placed.back().padded * s.dim;
    }
    return placed;
}

// Component ranges that kernels have: 2l+1 cut into pieces of 1, 3, 5 or 7.
std::vector<std::array<int, 2>> pieces(int64_t dim) {
    std::vector<std::array<int, 2>> out;
    int at = 0;
    while (at < dim) {
        const int left = static_cast<int>(dim) - at;
        int size = left >= 7 ? 7 : left;
        if (left == 9 || left == 8) size = 5;
        if (size % 2 == 0) --size;
        out.push_back({at, size});
        at += size;
    }
    return out;
}

Sparse compress(const std::vector<std::vector<Term>>& rows) {
    Sparse sparse;
    sparse.rows.resize(rows.size());
    std::iota(sparse.rows.begin(), sparse.rows.end(), 0);
    std::stable_sort(sparse.rows.begin(), sparse.rows.end(),
                     [&](int a, int b) { return rows[a].size() < rows[b].size(); });
    for (int row : sparse.rows) {
        const int terms = static_cast<int>(rows[row].size());
        if (sparse.alike.empty() || sparse.alike.back().terms != terms) sparse.alike.push_back({terms, 0});
        ++sparse.alike.back().rows;
        sparse.terms.insert(sparse.terms.end(), rows[row].begin(), rows[row].end());
    }
    return sparse;
}

void check(const Tables& t, const Path& p) {
    if (p.in1 < 0 || p.in1 >= static_cast<int>(t.x.size()) || p.out < 0 || p.out >= static_cast<int>(t.z.size()))
        throw std::invalid_argument("a path names a segment that does not exist");
    const Segment &x = t.x[p.in1], &z = t.z[p.out];
    if (x.mul != z.mul) throw std::invalid_argument("a channelwise path keeps the multiplicity");
    if (p.w >= 0 && p.w + x.mul > t.w_dim) throw std::invalid_argument("a path reads beyond the weights");
    for (const Nonzero& n : p.nonzeros)
        if (n.i < 0 || n.i >= x.dim || n.k < 0 || n.k >= z.dim || n.j < 0 || n.j >= t.y_dim)
            throw std::invalid_argument("a coefficient lies outside its path");
}

// Whether coefficients are one column of y on the whole diagonal, alike up to rounding.
bool is_unit(const std::vector<Nonzero>& inside, int d1, int d3) {
    if (d1 != d3 || static_cast<int>(inside.size()) != d1) return false;
    const Nonzero& first = inside.front();
    std::vector<bool> met(first.i + d1 + 1);
    for (const Nonzero& n : inside) {
        if (n.i != n.k || n.j != first.j || std::abs(n.c - first.c) > 1e-15 * std::abs(first.c)) return false;
        if (n.i >= static_cast<int>(met.size()) || met[n.i]) return false;
        met[n.i] = true;
    }
    return true;
}

}  // namespace

Lowered lower(const Tables& t, int64_t vl, bool padded_w) {
    Lowered low{};
    low.x = place(t.x, vl, low.x_dim, low.x_width);
    low.z = place(t.z, vl, low.z_dim, low.z_width);
    low.y_dim = t.y_dim;
    low.w_dim = low.w_width = t.w_dim;
    low.mul_ir = t.mul_ir;
    low.staged_w = padded_w;
    for (const Path& p : t.paths) {
        check(t, p);
        low.staged_w |= p.w >= 0 && t.x[p.in1].mul % vl != 0;
    }
    std::vector<std::vector<Term>> m_of_y, y_of_m(t.y_dim);
    int64_t x_covered = 0, z_covered = 0;
    if (low.staged_w) low.w_width = 0;
    for (const Path& p : t.paths) {
        const Placed &x = low.x[p.in1], &z = low.z[p.out];
        int64_t w = p.w;
        if (low.staged_w && p.w >= 0) {
            w = low.w_width;
            low.w_map.push_back({x.mul, w});
            low.w_width += x.padded;
        }
        const size_t begin = low.blocks.size();
        for (const auto& [i0, d1] : pieces(x.dim))
            for (const auto& [k0, d3] : pieces(z.dim)) {
                std::vector<Nonzero> inside;
                for (const Nonzero& n : p.nonzeros)
                    if (n.i >= i0 && n.i < i0 + d1 && n.k >= k0 && n.k < k0 + d3) inside.push_back(n);
                if (inside.empty() || x.mul == 0) continue;
                const bool unit = d1 > 1 && i0 == k0 && is_unit(inside, d1, d3);
                if (unit) inside.resize(1);
                const int first = static_cast<int>(low.m_size);
                low.m_size += unit ? 1 : d1 * d3;
                m_of_y.resize(low.m_size);
                for (const Nonzero& n : inside) {
                    const int m = first + (unit ? 0 : (n.i - i0) * d3 + n.k - k0);
                    m_of_y[m].push_back({n.j, static_cast<float>(n.c), n.c});
                    y_of_m[n.j].push_back({m, static_cast<float>(n.c), n.c});
                }
                const int64_t from = x.inside + i0 * x.padded, to = z.inside + k0 * z.padded;
                bool x_fresh = true, z_fresh = true;
                for (const Block& b : low.blocks) x_fresh &= b.x != from, z_fresh &= b.z != to;
                if (x_fresh) x_covered += d1 * x.mul;
                if (z_fresh) z_covered += d3 * z.mul;
                low.blocks.push_back({d1, d3, unit, from, to, w, x.padded, first, p.w, x.mul,
                                      low.blocks.size() == begin, false, z.outside, z.dim, k0, x_fresh, z_fresh});
            }
        if (low.blocks.size() > begin) low.blocks.back().last = true;
    }
    low.x_covered = x_covered == low.x_dim;
    low.z_covered = z_covered == low.z_dim;
    low.m_of_y = compress(m_of_y);
    low.y_of_m = compress(y_of_m);
    return low;
}

}  // namespace eqk
