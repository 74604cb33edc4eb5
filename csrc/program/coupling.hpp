// A product program in any connection mode as flat tables: coupled channels, in pieces that stay in the cache.
//
// Every path couples pairs of channels of x and y. A pair is a coupled channel; its weight, or its row of a matrix of
// weights, takes it to channels of z.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace eqk {

// A segment `mul x (2l+1)`, and where its columns begin.
struct Columns {
    int64_t mul, dim, begin;
};

// One coefficient: components of x, y and z.
struct Cell {
    int i, j, k;
    double c;
};

// A path as Python describes it; cells in any order; its weights begin at w, -1: unweighted.
struct PathTable {
    int in1, in2, out;
    std::string mode;
    int64_t w;
    std::vector<Cell> cells;
};

// Channel `scalar` of one operand with `count` channels of the other (the lanes) from `lane` on: the coupled channels
// `at`, at + step, ... of a piece. Where equal channels are paired, `count` of both.
struct Run {
    int64_t scalar, lane, count, at, step;
};

// Coupled channels [first, first + count) of a path.
struct Piece {
    int64_t first, count;
    std::vector<Run> runs;
};

// M[m] += c times component b of the scalar.
struct Source {
    int m, b;
    double c;
};

// Component `to` is the sum of M[m] times component `from`; where equal channels are paired, of c times component m of
// the one times component `from` of the other.
struct Step {
    int m, from;
    double c;
};
struct StepSum {
    int to;
    std::vector<Step> steps;
};

struct CoupledPath {
    int in1, in2, out;
    bool equal;                 // channels are paired with their equals
    bool lanes_x;               // the channels of x are the lanes, else those of y
    int64_t w;                  // first weight, -1: unweighted
    bool mixes;                 // a coupled channel has a row of weights, else one
    int64_t channels;           // coupled ones
    std::vector<int64_t> outs;  // the channel of z of each, if they do not mix
    std::vector<Piece> pieces;
    int64_t factors;  // entries of M; of equal channels there are none
    std::vector<Source> sources;
    std::vector<StepSum> there, back, across;  // from lanes to coupled channels, and back; of equal ones to the scalars
};

// A product program whose rows are all the edges themselves, ready for the loops.
struct Coupling {
    std::vector<Columns> x, y, z;
    bool turn;  // channels are outermost
    int64_t x_dim, y_dim, z_dim, w_dim;
    std::vector<CoupledPath> paths;  // in order of their segment of z
};

using Segments = std::vector<std::pair<int64_t, int64_t>>;  // (mul, 2l+1)

// Segments one after the other; `columns` becomes how many there are. Throws std::invalid_argument for sizes that
// cannot be.
std::vector<Columns> place(const Segments& segments, int64_t& columns);

// Throws std::invalid_argument if the tables contradict themselves.
Coupling make_coupling(const Segments& x, const Segments& y, const Segments& z, bool turn, int64_t w_dim,
                       const std::vector<PathTable>& paths);

}  // namespace eqk
