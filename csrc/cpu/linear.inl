// Linear maps: a block of rows is turned to (row, component) by channels, multiplied by the packed matrices of all
// paths and turned back, so that no turned array of all rows is made. Every number is one sum in one order, whatever
// the threads.
#include <omp.h>

#include "contract_rows.inl"
#include "linear.hpp"
#include "matrix.inl"

namespace eqk {
namespace EQK_TARGET {

constexpr int64_t LINEAR_ROWS = 48;       // of a block, which stays in the second-level cache
constexpr int64_t LINEAR_CHUNK = 1024;    // rows that are turned together for dw
constexpr int64_t LINEAR_DEPTH = 128;     // rows times components that a tile of dw sums before the next tile does
constexpr int64_t LINEAR_WORK = 1 << 19;  // multiply-adds from which on threads share them

// Rows of one kind; `order` holds their numbers, or null.
struct LinearRows {
    int64_t kind, place, begin, end;  // its row of weights, its place among the kinds that there are
    const int64_t* order;
    int64_t operator[](int64_t n) const { return order ? order[begin + n] : begin + n; }
    int64_t size() const { return end - begin; }
    LinearRows part(int64_t first, int64_t most) const {
        return {kind, place, begin + first, std::min(begin + first + most, end), order};
    }
};

// One side of the map inside. A segment with paths is a matrix (rows, components, padded channels), which starts
// `inside` numbers a row after the first one's.
struct LinearSide {
    std::vector<Placed> segments;
    std::vector<bool> used;
    int64_t dim, width = 0;  // numbers a row outside, inside
    bool mul_ir;
};

template <class T>
LinearSide side_of(const LinearMap& p, bool of_x) {
    const std::vector<Columns>& columns = of_x ? p.x : p.z;
    LinearSide side{{}, std::vector<bool>(columns.size(), false), of_x ? p.x_dim : p.z_dim, 0, p.turn};
    for (const LinearPath& path : p.paths) side.used[of_x ? path.in : path.out] = true;
    for (size_t n = 0; n < columns.size(); ++n) {
        int64_t padded = round_up<T>(columns[n].mul);
        // Rows that are multiples of 2 kB apart would share few sets of the first-level cache.
        if (padded * int64_t(sizeof(T)) % 2048 == 0) padded += lanes<T>;
        side.segments.push_back({columns[n].mul, columns[n].dim, padded, columns[n].begin, side.width});
        if (side.used[n]) side.width += columns[n].dim * padded;
    }
    return side;
}

// Turn rows into a block that has room for `room` rows, from its row `place` on.
template <class T>
void split_rows(const LinearSide& side, const LinearRows& rows, const T* from, T* block, int64_t room, int64_t place) {
    for (size_t n = 0; n < side.segments.size(); ++n) {
        const Placed& s = side.segments[n];
        if (!side.used[n]) continue;
        T* to = block + s.inside * room + place * s.dim * s.padded;
        for (int64_t r = 0; r < rows.size(); ++r, to += s.dim * s.padded)
            to_inside(s, side.mul_ir, from + rows[r] * side.dim + s.outside, to);
    }
}

// Turn a block back; segments without paths are zero.
template <class T>
void join_rows(const LinearSide& side, const LinearRows& rows, const T* block, int64_t room, T* to) {
    for (size_t n = 0; n < side.segments.size(); ++n) {
        const Placed& s = side.segments[n];
        const T* from = block + s.inside * room;
        for (int64_t r = 0; r < rows.size(); ++r, from += s.dim * s.padded) {
            T* const row = to + rows[r] * side.dim + s.outside;
            if (side.used[n])
                to_outside(s, side.mul_ir, from, row);
            else
                std::fill_n(row, s.mul * s.dim, T(0));
        }
    }
}

// A path's weights W (rows, columns) times its scale, or W^T, as B in strips; columns are padded with zeros.
template <class T>
void pack_weights(const T* w, int64_t rows, int64_t columns, bool turned, T scale, const Matrix<T>& b) {
    constexpr int64_t L = lanes<T>, width = TILE_VECTORS * L;
    T* to = b.packed;
    for (int64_t at = 0; at < b.n; at += width) {
        const int64_t count = std::min(width, b.n - at), real = std::min(count, (turned ? rows : columns) - at);
        const int64_t squares = turned && real == count ? b.k / L * L : 0;
        for (int64_t j = 0; squares && j < count; j += L) turn(w + (at + j) * columns, columns, squares, to + j, count);
        for (int64_t i = squares; i < b.k; ++i)
            for (int64_t j = 0; j < count; ++j)
                to[i * count + j] = j >= real ? T(0) : turned ? w[(at + j) * columns + i] : w[i * columns + at + j];
        for (int64_t c = 0; c < b.k * count; ++c) to[c] *= scale;
        to += b.k * count;
    }
}

// C (rows, n) += A (rows, k) B, or = if `fresh`.
template <class T>
void multiply_path(int64_t rows, const T* a, int64_t a_row, const Matrix<T>& b, bool fresh, T* c, int64_t c_row) {
    constexpr int64_t width = TILE_VECTORS * lanes<T>;
    for (int64_t at = 0; at < b.n; at += width) {
        const Factors<T> f{a, b.packed + at * b.k, a_row, 1, std::min(width, b.n - at), b.k};
        const There there = fresh ? There::lost : There::part;
        if (at + width <= b.n)
            columns<T, TILE_VECTORS>(rows, f, nullptr, nullptr, there, c + at, c_row);
        else
            columns<T, 1>(rows, f, nullptr, nullptr, there, c + at, c_row);
    }
}

// Columns [at, at + count) of dw += A^T B over rows, or = if `fresh`: count of one tile.
template <class T>
void multiply_rows(int64_t rows, const T* a, int64_t a_row, int64_t m, const T* b, int64_t b_row, int64_t count,
                   bool fresh, T* c, int64_t c_row) {
    for (int64_t first = 0; first < rows; first += LINEAR_DEPTH) {
        const Factors<T> f{a + first * a_row, b + first * b_row, 1, a_row, b_row, std::min(LINEAR_DEPTH, rows - first)};
        const There there = fresh && first == 0 ? There::lost : There::part;
        if (count == TILE_VECTORS * lanes<T>)
            columns<T, TILE_VECTORS>(m, f, nullptr, nullptr, there, c, c_row);
        else
            columns<T, 1>(m, f, nullptr, nullptr, there, c, c_row);
    }
}

// From one side to the other, by the packed matrices of each kind that there is: x W into z, or g W^T into dx.
template <class T>
struct LinearPass {
    const LinearMap& p;
    const LinearSide &from, &to;
    int LinearPath::* in;
    int LinearPath::* out;
    bool turned;
    std::vector<int64_t> at{};  // of each path's matrix among those of a kind
    int64_t size = 0;           // numbers that those take
    std::vector<bool> fresh{};  // no path before it adds to its segment
    Buffer<T> packed{};

    LinearPass(const LinearMap& map, const LinearSide& x, const LinearSide& z, bool turned, int64_t kinds)
        : p(map),
          from(turned ? z : x),
          to(turned ? x : z),
          in(turned ? &LinearPath::out : &LinearPath::in),
          out(turned ? &LinearPath::in : &LinearPath::out),
          turned(turned) {
        std::vector<bool> seen(to.segments.size(), false);
        for (const LinearPath& path : p.paths) {
            at.push_back(size);
            size += from.segments[path.*in].mul * round_up<T>(to.segments[path.*out].mul);
            fresh.push_back(!seen[path.*out]);
            seen[path.*out] = true;
        }
        packed = Buffer<T>(kinds * size);
    }

    Matrix<T> matrix(int64_t place, int64_t n) const {
        const LinearPath& path = p.paths[n];
        return {from.segments[path.*in].mul, round_up<T>(to.segments[path.*out].mul),
                packed.data() + place * size + at[n]};
    }

    void pack(const T* w, int64_t place, int64_t n) const {
        const LinearPath& path = p.paths[n];
        pack_weights(w + path.w, p.x[path.in].mul, p.z[path.out].mul, turned, static_cast<T>(path.scale),
                     matrix(place, n));
    }

    void run(const LinearRows& rows, const T* source, T* target, T* scratch) const {
        const int64_t room = rows.size();
        T* const made = scratch + from.width * room;
        split_rows(from, rows, source, scratch, room, 0);
        for (size_t n = 0; n < p.paths.size(); ++n) {
            const Placed &s = from.segments[p.paths[n].*in], &t = to.segments[p.paths[n].*out];
            multiply_path(room * s.dim, scratch + s.inside * room, s.padded, matrix(rows.place, n), fresh[n],
                          made + t.inside * room, t.padded);
        }
        join_rows(to, rows, made, room, target);
    }
};

// A tile's columns of a path's dw.
struct LinearTile {
    int64_t path, at, count;
};

// dw of one kind after the other: rows are turned together, then every tile is summed by one thread.
template <class T>
struct LinearWeights {
    const LinearMap& p;
    const LinearSide &x, &z;
    std::vector<LinearTile> tiles{};
    std::vector<int64_t> at{};  // of each path's sums
    Buffer<T> x_rows{}, z_rows{}, sums{};

    LinearWeights(const LinearMap& map, const LinearSide& x, const LinearSide& z, int64_t most)
        : p(map), x(x), z(z), x_rows(most * x.width), z_rows(most * z.width) {
        constexpr int64_t width = TILE_VECTORS * lanes<T>;
        int64_t size = 0;
        for (size_t n = 0; n < p.paths.size(); ++n) {
            const int64_t columns = round_up<T>(p.z[p.paths[n].out].mul);
            at.push_back(size);
            size += p.x[p.paths[n].in].mul * columns;
            for (int64_t c = 0; c < columns; c += width)
                tiles.push_back({static_cast<int64_t>(n), c, std::min(width, columns - c)});
        }
        sums = Buffer<T>(size);
    }

    // By all threads of the team.
    void run(const LinearArgs<T>& a, const LinearRows& rows) const {
        for (int64_t first = 0; first < rows.size(); first += LINEAR_CHUNK) {
            const LinearRows chunk = rows.part(first, LINEAR_CHUNK);
            const int64_t room = chunk.size();
#pragma omp for
            for (int64_t r = 0; r < room; r += TILE_ROWS) {
                split_rows(x, chunk.part(r, TILE_ROWS), a.x, x_rows.data(), room, r);
                split_rows(z, chunk.part(r, TILE_ROWS), a.g, z_rows.data(), room, r);
            }
#pragma omp for schedule(dynamic)
            for (size_t n = 0; n < tiles.size(); ++n) add(tiles[n], room, first == 0);
        }
#pragma omp for
        for (size_t n = 0; n < p.paths.size(); ++n) {
            const LinearPath& path = p.paths[n];
            const int64_t m1 = p.x[path.in].mul, m3 = p.z[path.out].mul, row = round_up<T>(m3);
            T* to = a.dw + rows.kind * p.w_dim + path.w;
            for (int64_t u = 0; u < m1; ++u)
                for (int64_t w = 0; w < m3; ++w)
                    to[u * m3 + w] = static_cast<T>(path.scale) * sums[at[n] + u * row + w];
        }
    }

   private:
    void add(const LinearTile& tile, int64_t room, bool fresh) const {
        const LinearPath& path = p.paths[tile.path];
        const Placed &s = x.segments[path.in], &t = z.segments[path.out];
        multiply_rows(room * s.dim, x_rows.data() + s.inside * room, s.padded, s.mul,
                      z_rows.data() + t.inside * room + tile.at, t.padded, tile.count, fresh,
                      sums.data() + at[tile.path] + tile.at, round_up<T>(t.mul));
    }
};

// Results that an operand lacks are zero.
template <class T>
void linear(const LinearMap& p, const LinearArgs<T>& a) {
    const bool z = a.z && a.x && a.w, dx = a.dx && a.g && a.w, dw = a.dw && a.x && a.g;
    if (a.z && !z) std::fill_n(a.z, a.rows * p.z_dim, T(0));
    if (a.dx && !dx) std::fill_n(a.dx, a.rows * p.x_dim, T(0));
    if (a.dw) std::fill_n(a.dw, a.kinds * p.w_dim, T(0));
    if (!z && !dx && !dw) return;
    int64_t work = 0, most = 0;
    for (const LinearPath& path : p.paths) work += p.x[path.in].mul * p.x[path.in].dim * p.z[path.out].mul * a.rows;
    const int threads = work < LINEAR_WORK ? 1 : a.threads;
    const int64_t share = (a.rows + 2 * threads - 1) / (2 * threads);
    const int64_t block = threads == 1 ? LINEAR_ROWS : std::clamp<int64_t>(share, TILE_ROWS, LINEAR_ROWS);
    std::vector<LinearRows> kinds, blocks;
    for (int64_t kind = 0; kind < a.kinds; ++kind) {
        const LinearRows rows{kind, static_cast<int64_t>(kinds.size()), a.ptr ? a.ptr[kind] : 0,
                              a.ptr ? a.ptr[kind + 1] : a.rows, a.order};
        if (rows.size() == 0) continue;
        kinds.push_back(rows);
        most = std::max(most, std::min(rows.size(), LINEAR_CHUNK));
        for (int64_t first = 0; first < rows.size(); first += block) blocks.push_back(rows.part(first, block));
    }
    const LinearSide x = side_of<T>(p, true), g = side_of<T>(p, false);
    const LinearPass<T> forward(p, x, g, false, z ? kinds.size() : 0), backward(p, x, g, true, dx ? kinds.size() : 0);
    const LinearWeights<T> weights(p, x, g, dw ? most : 0);
    std::vector<Buffer<T>> scratch;
    for (int n = 0; n < threads; ++n) scratch.emplace_back((x.width + g.width) * block);
    const int64_t paths = p.paths.size();
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        T* const room = scratch[omp_get_thread_num()].data();
#pragma omp for schedule(dynamic)
        for (int64_t n = 0; n < static_cast<int64_t>(kinds.size()) * paths; ++n) {
            const LinearRows& rows = kinds[n / paths];
            if (z) forward.pack(a.w + rows.kind * p.w_dim, rows.place, n % paths);
            if (dx) backward.pack(a.w + rows.kind * p.w_dim, rows.place, n % paths);
        }
#pragma omp for schedule(dynamic)
        for (size_t n = 0; n < blocks.size(); ++n) {
            if (z) forward.run(blocks[n], a.x, a.z, room);
            if (dx) backward.run(blocks[n], a.g, a.dx, room);
        }
        for (const LinearRows& rows : kinds)
            if (dw) weights.run(a, rows);
    }
}

extern const LinearKernels linear_kernels;
const LinearKernels linear_kernels{linear<float>, linear<double>};

}  // namespace EQK_TARGET
}  // namespace eqk
