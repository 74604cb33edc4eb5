// A channelwise product program as flat tables, and its lowering for one vector length.
#pragma once

#include <cstdint>
#include <vector>

namespace eqk {

// `mul x ir`: multiplicity and dimension 2l+1.
struct Segment {
    int64_t mul, dim;
};

// One coefficient of a path: component i of its x segment, column j of y, component k of its z segment.
struct Nonzero {
    int i, j, k;
    double c;
};

// One path: segments of x and z, first column of its weights (-1: unweighted), scaled coefficients.
struct Path {
    int in1, out;
    int64_t w;
    std::vector<Nonzero> nonzeros;
};

struct Tables {
    std::vector<Segment> x, z;
    int64_t y_dim, w_dim;
    std::vector<Path> paths;
    bool mul_ir;  // column order of x and z outside: channels outermost; inside, components always are
};

// Where a segment lies outside and inside (components outermost, channels padded to the vector length).
struct Placed {
    int64_t mul, dim, padded, outside, inside;
};

// A rectangle of a path, d1 x d3 components with d1, d3 in {1, 3, 5, 7}: what one kernel call does. Where y is a
// scalar, M is a number times the unit matrix: `unit`, and that number is the only entry of M.
struct Block {
    int d1, d3;
    bool unit;
    int64_t x, z;                       // inside offsets of its first components
    int64_t w;                          // offset in the weight row that kernels see, -1: unweighted
    int64_t padded;                     // channels, a multiple of the vector length
    int64_t m;                          // first entry of M
    int64_t column;                     // of its path's first weight outside
    int64_t mul;                        // channels outside
    bool first;                         // of its path: stores dw, the others add to it
    bool last;                          // of its path: dw is complete
    int64_t z_outside, z_dim, z_first;  // its z segment outside: first column, components; the rectangle's first one
    bool x_fresh, z_fresh;              // no block before it adds to these components of dx, of z
    int64_t work() const { return unit ? d1 + 1 : d1 * (d3 + 1); }  // multiply-adds a channel, of z
};

// A sparse matrix: out[row] = sum of c * in[column]. Rows with equally many terms follow each other, so that the length
// of a sum is no surprise to the processor.
struct Term {
    int column;
    float f32;
    double f64;
    template <class T>
    T c() const {
        return sizeof(T) == sizeof(float) ? static_cast<T>(f32) : static_cast<T>(f64);
    }
};
struct Sparse {
    struct Alike {
        int terms, rows;  // of each row; so many rows
    };
    std::vector<Alike> alike;
    std::vector<int> rows;    // in this order
    std::vector<Term> terms;  // row by row
};

struct Lowered {
    std::vector<Placed> x, z;
    std::vector<Block> blocks;
    int64_t x_dim, z_dim, y_dim, w_dim;  // columns outside
    int64_t x_width, z_width, w_width;   // inside
    int64_t m_size;
    bool mul_ir;
    bool x_covered, z_covered;   // some block adds to every component
    bool staged_w;               // weight rows are copied to padded ones
    std::vector<Segment> w_map;  // mul = weights of a path, dim = its padded offset, in order of columns (staged only)
    Sparse m_of_y, y_of_m;
};

// `padded_w`: weight rows are padded whatever their widths (those that are formed in cache).
// Throws std::invalid_argument if the tables contradict themselves.
Lowered lower(const Tables& tables, int64_t vector_length, bool padded_w);

}  // namespace eqk
