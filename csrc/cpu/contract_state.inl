// What a sweep shares and what a thread owns.
#pragma once

#include "contract_blocks.inl"
#include "contract_rows.inl"
#include "pages.hpp"

namespace eqk {
namespace EQK_TARGET {

// Sums of dx by sender, in the order in which edges named them first.
template <class T>
struct SenderSums {
    std::vector<int64_t> senders{};
    T* rows = nullptr;  // (senders, x_width)
};

// What all threads share during one call.
template <class T>
struct Sweep {
    const Lowered& p;
    const ContractArgs<T>& a;
    bool grads = false;             // of any input
    bool fetch = false;             // weights do not stay in the caches: fetch them ahead
    bool stream = false;            // dw would not stay either: written past the caches, one path at a time
    bool far = false;               // rows of x do not stay in the caches either
    bool gather = false;            // x rows are gathered by index, and kept converted in x, hx
    Buffer<T> x{}, hx{}, dx{};      // (x_rows, x_width) inside order
    Buffer<T> zeros{}, fixed{};     // absent tangents; weights of unweighted paths
    Buffer<T> w{}, hw{};            // the shared weight rows, staged
    std::vector<int64_t> groups{};  // first receiver of each group, and the end
    Buffer<T> dw_groups{}, dx_groups{}, dw_edges{};  // of one batch
    std::vector<SenderSums<T>> sums{};               // of its groups
    std::vector<std::pair<int64_t, int64_t>>
        columns{};                  // of a table: blocks, and columns in them that one thread adds up
    int64_t steps[kMostRows] = {};  // from a row of the table to those that an edge reads

    int64_t begin(int64_t receiver) const { return a.z_ptr ? a.z_ptr[receiver] : receiver; }
    int64_t edge(int64_t position) const { return a.z_order ? a.z_order[position] : position; }
    bool table() const { return a.window > 0; }
    // Of a table, dw of an edge: that of the form, after it, where there are tangents, the plain one.
    int64_t dw_kept() const { return p.w_width * (a.second ? 2 : 1); }
};

// What one thread owns.
template <class T>
struct Worker {
    Buffer<T> z, g;                         // the receiver's rows
    Buffer<T> m, n, dm, y, hy, dy;          // SIDE edges side by side
    Buffer<T> x, hx, dx, w, hw, dw, plain;  // staged rows of EDGES edges
    Buffer<T> db;                           // EDGES windows
    Buffer<T> unused;                       // where the dw of unweighted paths goes
    Buffer<T> rows;                         // columns of a table's dw
    std::vector<int64_t> place;             // of a sender in the group's sums, if it is there
    Worker(const Lowered& p, int64_t x_rows)
        : z(p.z_width),
          g(p.z_width),
          m(p.m_size * SIDE),
          n(p.m_size * SIDE),
          dm(p.m_size * SIDE),
          y(p.y_dim * SIDE),
          hy(p.y_dim * SIDE),
          dy(p.y_dim * SIDE),
          x(p.x_width * EDGES),
          hx(p.x_width * EDGES),
          dx(p.x_width * EDGES),
          w(p.w_width * EDGES),
          hw(p.w_width * EDGES),
          dw(p.w_width * EDGES),
          plain(p.w_width * EDGES),
          db(EDGES * kMostRows),
          unused(p.x_width),
          place(x_rows) {}
};

// Ask for a row, to be written where Write is 1.
template <int Write, class T>
EQK_INLINE void fetch_row(const T* row, int64_t width) {
    for (int64_t n = 0; n < width; n += lanes<T>) __builtin_prefetch(row + n, Write, 2);
}

}  // namespace EQK_TARGET
}  // namespace eqk
