#include "coupling.hpp"

#include <algorithm>
#include <map>
#include <stdexcept>

namespace eqk {

namespace {

constexpr int64_t PIECE = 64;  // coupled channels; sums over them are made in parts of as many

void require(bool condition, const char* what) {
    if (!condition) throw std::invalid_argument(what);
}

const Columns& segment(const std::vector<Columns>& segments, int n) {
    require(n >= 0 && n < static_cast<int>(segments.size()), "a path names a segment that does not exist");
    return segments[n];
}

bool equals(const std::string& mode) { return mode.compare(0, 2, "uu") == 0; }
bool upper(const std::string& mode) { return mode.find('<') != std::string::npos; }

// Every channel of x with every one of y; those of x are the lanes, a few of them a piece.
void couple_all(CoupledPath& p, int64_t m1, int64_t m2) {
    const int64_t most = std::max<int64_t>(PIECE / m2, 1);
    for (int64_t u = 0; u < m1; u += most) {
        const int64_t count = std::min(most, m1 - u);
        p.pieces.push_back({u * m2, count * m2, {}});
        for (int64_t v = 0; v < m2; ++v) p.pieces.back().runs.push_back({v, u, count, v, m2});
    }
}

void couple_equals(CoupledPath& p, int64_t m) {
    for (int64_t u = 0; u < m; u += PIECE) {
        const int64_t count = std::min(PIECE, m - u);
        p.pieces.push_back({u, count, {{u, u, count, 0, 1}}});
    }
}

// Every channel u of x with all channels of y, or those beyond u; those of y are the lanes.
void couple_rows(CoupledPath& p, int64_t m1, int64_t m2, bool beyond) {
    int64_t done = 0;
    for (int64_t u = 0; u < m1; ++u)
        for (int64_t v = beyond ? u + 1 : 0; v < m2;) {
            if (p.pieces.empty() || p.pieces.back().count == PIECE) p.pieces.push_back({done, 0, {}});
            Piece& piece = p.pieces.back();
            const int64_t count = std::min(PIECE - piece.count, m2 - v);
            piece.runs.push_back({u, v, count, piece.count, 1});
            piece.count += count, done += count, v += count;
        }
}

void couple(CoupledPath& p, const std::string& mode, int64_t m1, int64_t m2) {
    p.equal = equals(mode);
    p.lanes_x = !p.equal && !upper(mode) && m2 > 0 && (m2 == 1 || (m2 < m1 && m2 <= 8));
    if (p.equal)
        couple_equals(p, m1);
    else if (p.lanes_x)
        couple_all(p, m1, m2);
    else
        couple_rows(p, m1, m2, upper(mode));
    p.channels = p.pieces.empty() ? 0 : p.pieces.back().first + p.pieces.back().count;
}

void place_outputs(CoupledPath& p, const std::string& mode, int64_t m2) {
    for (int64_t c = 0; c < p.channels; ++c)
        p.outs.push_back(mode == "uvu" ? c / m2 : mode == "uvv" ? c % m2 : mode == "uuw" ? 0 : c);
}

std::vector<StepSum> sums(int64_t dim) {
    std::vector<StepSum> made;
    for (int to = 0; to < dim; ++to) made.push_back({to, {}});
    return made;
}

// The scalars of equal channels are x, the lanes y.
void lower_equals(CoupledPath& p, const std::vector<Cell>& cells, int64_t scalar_dim) {
    p.across = sums(scalar_dim);
    for (const Cell& c : cells) {
        p.there[c.k].steps.push_back({c.i, c.j, c.c});
        p.back[c.j].steps.push_back({c.i, c.k, c.c});
        p.across[c.i].steps.push_back({c.j, c.k, c.c});
    }
}

void lower(CoupledPath& p, const std::vector<Cell>& cells) {
    std::map<std::pair<int, int>, int> entries;  // (component of z, of a lane)
    for (const Cell& c : cells) entries.emplace(std::pair{c.k, p.lanes_x ? c.i : c.j}, 0);
    for (auto& [at, m] : entries) {
        m = static_cast<int>(p.factors++);
        p.there[at.first].steps.push_back({m, at.second, 1});
        p.back[at.second].steps.push_back({m, at.first, 1});
    }
    for (const Cell& c : cells)
        p.sources.push_back({entries.at({c.k, p.lanes_x ? c.i : c.j}), p.lanes_x ? c.j : c.i, c.c});
    std::stable_sort(p.sources.begin(), p.sources.end(), [](const Source& a, const Source& b) { return a.m < b.m; });
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

Coupling make_coupling(const Segments& x, const Segments& y, const Segments& z, bool turn, int64_t w_dim,
                       const std::vector<PathTable>& paths) {
    Coupling made{};
    made.x = place(x, made.x_dim);
    made.y = place(y, made.y_dim);
    made.z = place(z, made.z_dim);
    made.turn = turn;
    made.w_dim = w_dim;
    for (const PathTable& t : paths) {
        const Columns &sx = segment(made.x, t.in1), &sy = segment(made.y, t.in2), &sz = segment(made.z, t.out);
        for (const Cell& c : t.cells)
            require(c.i >= 0 && c.i < sx.dim && c.j >= 0 && c.j < sy.dim && c.k >= 0 && c.k < sz.dim,
                    "a coefficient lies outside its path");
        require((!equals(t.mode) && !upper(t.mode)) || sx.mul == sy.mul, "a path pairs channels of unequal segments");
        CoupledPath p{};
        p.in1 = t.in1, p.in2 = t.in2, p.out = t.out, p.w = t.w;
        p.mixes = t.w >= 0 && t.mode.back() == 'w';
        couple(p, t.mode, sx.mul, sy.mul);
        if (!p.mixes) place_outputs(p, t.mode, sy.mul);
        for (int64_t out : p.outs) require(out < sz.mul, "a path writes beyond its output");
        require(p.w < 0 || p.w + p.channels * (p.mixes ? sz.mul : 1) <= w_dim, "a path reads beyond the weights");
        p.there = sums(sz.dim), p.back = sums(p.lanes_x ? sx.dim : sy.dim);
        if (p.equal)
            lower_equals(p, t.cells, sx.dim);
        else
            lower(p, t.cells);
        if (p.channels * sz.mul > 0) made.paths.push_back(std::move(p));
    }
    std::stable_sort(made.paths.begin(), made.paths.end(), [](auto& a, auto& b) { return a.out < b.out; });
    return made;
}

}  // namespace eqk
