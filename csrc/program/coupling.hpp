// A product program in any connection mode as flat tables: runs of channels.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace eqk {

// Which operand's channels are the lanes of a path: both (equal channels), x (a run for each channel of y), or y.
enum class Lanes { both, x, y };

// A segment `mul x (2l+1)`, and where its columns begin.
struct Columns {
    int64_t mul, dim, begin;
};

// Lanes [begin, begin + count) with channel `scalar` of the other operand, into output channels from `out`, weighted
// from `w` (within the path).
struct Run {
    int64_t scalar, begin, count, out, w;
};

// One coefficient: components of x, y and z.
struct Cell {
    int i, j, k;
    double c;
};

// What the loops read of one path: entries (a, k) of M, sorted by k, and how they come from the scalar operand's
// components b. With both operands as lanes, entry n is cell n.
struct Entry3 {
    int a, k;
};
struct Source {
    int entry, b;
    double c;
};

struct Coupled {
    Lanes lanes;
    int64_t x, y, z;                      // first columns of its segments
    int64_t x_mul, y_mul, z_mul;          // channels of these segments
    int64_t w;                            // first weight, -1: unweighted
    int64_t turned_rows, turned_columns;  // weights lie (rows, columns), the runs read (columns, rows); 0: as they lie
    std::vector<Run> runs;
    std::vector<Entry3> entries;
    std::vector<Source> sources;  // in order of entries
    std::vector<Cell> cells;      // both lanes: in order of k
};

// A product program whose rows are all the edges themselves, ready for the loops.
struct Coupling {
    std::vector<Columns> x, y, z;
    bool turn_x, turn_y, turn_z;  // channels are outermost outside; inside, components are
    int64_t x_dim, y_dim, z_dim, w_dim;
    std::vector<Coupled> paths;
    bool turn_w;
    int64_t most_entries;
};

// A path as Python describes it; cells in any order.
struct PathTable {
    Lanes lanes;
    int in1, in2, out;
    int64_t w;
    std::pair<int64_t, int64_t> turned;
    std::vector<Run> runs;
    std::vector<Cell> cells;
};

using Segments = std::vector<std::pair<int64_t, int64_t>>;  // (mul, 2l+1)

// Segments one after the other; `columns` becomes how many there are. Throws std::invalid_argument for sizes that
// cannot be.
std::vector<Columns> place(const Segments& segments, int64_t& columns);

// Turn: whether channels are outermost outside. Throws std::invalid_argument if the tables contradict themselves.
Coupling make_coupling(const Segments& x, const Segments& y, const Segments& z, bool turn_xy, bool turn_z,
                       int64_t w_dim, std::vector<PathTable> paths);

}  // namespace eqk
