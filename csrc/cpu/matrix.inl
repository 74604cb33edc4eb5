// Products of rows with small matrices: C = A B (+ bias), and sums of outer products C += A^T B.
#pragma once

#include <algorithm>
#include <array>
#include <vector>

#include "vector.hpp"

namespace eqk {
namespace EQK_TARGET {

constexpr int TILE_ROWS = EQK_VECTOR_BYTES == 64 ? 12 : 5, TILE_VECTORS = 2;  // what the registers hold

// Rows of a width; where numbers have tangents these lie `half` further. `first` is the row that `p` holds first.
template <class T>
struct Rows {
    T* p = nullptr;
    int64_t width = 0, half = 0, first = 0;
    T* operator[](int64_t row) const { return p + (row - first) * width; }
    explicit operator bool() const { return p != nullptr; }
};

// B (k, n), n a multiple of the lanes. Packed: panels of TILE_VECTORS vectors of columns, each row by row. Or a weight
// W (out, in) where it lies, for few rows, which are not worth a copy of it: B = W, or W^T if `turned`; sections are
// parts of `section` rows of W in the order of B.
template <class T>
struct Matrix {
    int64_t k = 0, n = 0;
    T* packed = nullptr;
    std::array<const T*, 3> sections{};
    int64_t section = 0;
    bool turned = false;
};

template <class T>
int64_t round_up(int64_t n) {
    return (n + lanes<T> - 1) / lanes<T> * lanes<T>;
}

// Where a sum of products comes from: rows of A (their strides `a_row`, `a_k`) times those of B, k of each.
template <class T>
struct Factors {
    const T *a, *b;
    int64_t a_row, a_k, b_row, k;
};

template <class T, int R, int V>
EQK_INLINE void add_products(const Factors<T>& f, Vec<T> (&sum)[R][V]) {
    const T *a = f.a, *b = f.b;
    for (int64_t i = 0; i < f.k; ++i, a += f.a_k, b += f.b_row) {
        Vec<T> column[V];
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) column[v] = load(b + v * lanes<T>);
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r) {
            const T s = a[r * f.a_row];  // not `spread`, which adds it to zero
#pragma GCC unroll 2
            for (int v = 0; v < V; ++v) sum[r][v] += s * column[v];
        }
    }
}

// What becomes of what is there: it is lost, or the sum goes on from it, or is added to it: a long sum in parts is
// closer to the exact one.
enum class There { lost, begun, part };

// C (R, V vectors) = the bias (null: zero), or what is there, and the products of f, of `more` if it is not null.
template <class T, int R, int V>
EQK_INLINE void tile(const Factors<T>& f, const Factors<T>* more, const T* bias, There there, T* c, int64_t c_row) {
    Vec<T> sum[R][V];
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v)
            sum[r][v] = there == There::begun  ? load(c + r * c_row + v * lanes<T>)
                        : there == There::part ? Vec<T>{}
                        : bias                 ? load(bias + v * lanes<T>)
                                               : Vec<T>{};
    add_products<T, R, V>(f, sum);
    if (more) add_products<T, R, V>(*more, sum);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) {
            T* const to = c + r * c_row + v * lanes<T>;
            store(to, there == There::part ? load(to) + sum[r][v] : sum[r][v]);
        }
}

// V vectors of columns of C, all rows, in tiles of nearly equal height.
template <class T, int V>
void columns(int64_t rows, Factors<T> f, const Factors<T>* more, const T* bias, There there, T* c, int64_t c_row) {
    Factors<T> second = more ? *more : Factors<T>{};
    const int64_t tiles = (rows + TILE_ROWS - 1) / TILE_ROWS;
    for (int64_t n = 0; n < tiles; ++n) {
        const int64_t height = rows / tiles + (n < rows % tiles);
#define EQK_TILE(R)                                                        \
    case R:                                                                \
        tile<T, R, V>(f, more ? &second : nullptr, bias, there, c, c_row); \
        break
        switch (height) {
            EQK_TILE(1);
            EQK_TILE(2);
            EQK_TILE(3);
            EQK_TILE(4);
            EQK_TILE(5);
#if EQK_VECTOR_BYTES == 64
            EQK_TILE(6);
            EQK_TILE(7);
            EQK_TILE(8);
            EQK_TILE(9);
            EQK_TILE(10);
            EQK_TILE(11);
            EQK_TILE(12);
#endif
        }
#undef EQK_TILE
        f.a += height * f.a_row, second.a += height * second.a_row, c += height * c_row;
    }
}

// The transpose of a square of vectors, in place.
template <class T, int S = 1, int... I>
EQK_INLINE void transpose(Vec<T>* v, std::integer_sequence<int, I...> all) {
    constexpr int L = lanes<T>;
#pragma GCC unroll 16
    for (int n = 0; n < L; ++n) {
        if (n & S) continue;
        const Vec<T> a = v[n], b = v[n + S];
#if defined(__clang__)
        v[n] = __builtin_shufflevector(a, b, (I & S ? L + I - S : I)...);
        v[n + S] = __builtin_shufflevector(a, b, (I & S ? L + I : I + S)...);
#else
        using Mask = decltype(a < b);
        constexpr Mask low = {(I & S ? L + I - S : I)...}, high = {(I & S ? L + I : I + S)...};
        v[n] = __builtin_shuffle(a, b, low), v[n + S] = __builtin_shuffle(a, b, high);
#endif
    }
    if constexpr (2 * S < L) transpose<T, 2 * S>(v, all);
}

// `count` columns of L rows of W, `from` on, as `count` rows of a vector each; count is a multiple of the lanes.
template <class T>
EQK_INLINE void turn(const T* from, int64_t from_row, int64_t count, T* to, int64_t to_row) {
    constexpr int L = lanes<T>;
    for (int64_t k = 0; k < count; k += L, from += L) {
        Vec<T> v[L];
        const T* row = from;
#pragma GCC unroll 16
        for (int n = 0; n < L; ++n, row += from_row) v[n] = load(row), hide(row);
        transpose<T>(v, std::make_integer_sequence<int, L>{});
#pragma GCC unroll 16
        for (int n = 0; n < L; ++n, to += to_row) store(to, v[n]), hide(to);
    }
}

// Rows of some columns of B, `row` apart: `k` of them.
template <class T>
struct Strip {
    const T* data;
    int64_t row, k;
};

constexpr int64_t TURNED_ROWS = 128;  // a strip of W^T, which stays in the first-level cache

// The rows of W or W^T from `first` on that lie together, at most up to row k; `room` holds those that are turned.
template <class T>
Strip<T> in_place(const Matrix<T>& b, int64_t at, int64_t count, int64_t first, int64_t k, T* room) {
    if (!b.turned) return {b.sections[first / b.section] + at, b.n, std::min(b.section, k - first)};
    const int64_t rows = std::min(TURNED_ROWS, k - first);
    for (int64_t j = 0; j < count; j += lanes<T>) {
        const T* w = b.sections[(at + j) / b.section] + (at + j) % b.section * b.k;
        turn(w + first, b.k, rows, room + j, count);
    }
    return {room, count, rows};
}

template <class T>
EQK_INLINE Strip<T> strip(const Matrix<T>& b, int64_t at, int64_t count, int64_t first, int64_t k, T* room) {
    constexpr int64_t width = TILE_VECTORS * lanes<T>;
    if (b.packed) return {b.packed + at * b.k, std::min(width, b.n - at), k};
    return in_place(b, at, count, first, k, room);
}

// C = A B + bias for rows [begin, end), tangents too (without the bias), or C += A B: the first k rows and n columns of
// B. A row may hold `repeat` rows of the product: the components of vectors. Values that are there already are left.
template <class T, bool D>
void multiply(int64_t begin, int64_t end, Rows<T> a, const Matrix<T>& b, int64_t k, int64_t n, const T* bias, bool add,
              Rows<T> c, int64_t repeat = 1, bool there = false) {
    constexpr int64_t width = TILE_VECTORS * lanes<T>;
    alignas(64) T room[TURNED_ROWS * width];
    const int64_t rows = (end - begin) * repeat, a_row = a.width / repeat, c_row = c.width / repeat;
    for (int64_t at = 0; at < n; at += width) {
        const int64_t count = std::min(width, n - at);
        for (int64_t first = 0; first < k;) {
            const Strip<T> s = strip(b, at, count, first, k, room);
            for (int64_t half = there; half <= D; ++half) {
                const Factors<T> f{a[begin] + half * a.half + first, s.data, a_row, 1, s.row, s.k};
                const T* start = bias && !half ? bias + at : nullptr;
                const There sum = add || first ? There::begun : There::lost;
                T* const to = c[begin] + half * c.half + at;
                if (count == width)
                    columns<T, TILE_VECTORS>(rows, f, nullptr, start, sum, to, c_row);
                else
                    columns<T, 1>(rows, f, nullptr, start, sum, to, c_row);
            }
            first += s.k;
        }
    }
}

// C (m, n) = A^T B + D^T E over rows, or added to C: A, D (rows, m), B, E (rows, n), n a multiple of the lanes.
template <class T>
void outer(int64_t rows, const T* a, const T* d, int64_t a_row, int64_t m, const T* b, const T* e, int64_t b_row,
           int64_t n, bool add, T* c, int64_t c_row) {
    constexpr int64_t width = TILE_VECTORS * lanes<T>;
    for (int64_t at = 0; at < n; at += width) {
        const Factors<T> f{a, b + at, 1, a_row, b_row, rows}, more{d, e + at, 1, a_row, b_row, rows};
        const There there = add ? There::begun : There::lost;
        if (at + width <= n)
            columns<T, TILE_VECTORS>(m, f, &more, nullptr, there, c + at, c_row);
        else
            columns<T, 1>(m, f, &more, nullptr, there, c + at, c_row);
    }
}

// Pack B[i][j] = from[row[i] * row_step + column[j] * column_step], zero where row or column is -1.
template <class T>
void pack(const Matrix<T>& b, const T* from, const std::vector<int64_t>& row, int64_t row_step,
          const std::vector<int64_t>& column, int64_t column_step) {
    constexpr int64_t width = TILE_VECTORS * lanes<T>;
    for (int64_t at = 0; at < b.n; at += width) {
        const int64_t count = std::min(width, b.n - at);
        T* to = b.packed + at * b.k;
        int64_t start[width];
        bool all = count == width, beside = all && column_step == 1;
        for (int64_t j = 0; j < count; ++j) {
            start[j] = column[at + j] * column_step;
            all = all && start[j] >= 0;
            beside = beside && all && start[j] == start[0] + j;
        }
        constexpr int64_t L = lanes<T>;
        for (int64_t i = 0; i < b.k; ++i, to += count) {
            const bool square = all && row_step == 1 && i + L <= b.k && row[i] >= 0 && row[i + L - 1] == row[i] + L - 1;
            const T* line = from + row[i] * row_step;
            if (square && !beside) {
                for (int64_t j = 0; j < width; j += L) turn(line + start[j], column_step, L, to + j, width);
                i += L - 1, to += (L - 1) * width;
            } else if (row[i] < 0)
                std::fill_n(to, count, T(0));
            else if (beside)
                std::copy_n(line + start[0], width, to);
            else if (all)
                for (int64_t j = 0; j < width; ++j) to[j] = line[start[j]];
            else
                for (int64_t j = 0; j < count; ++j) to[j] = start[j] < 0 ? T(0) : line[start[j]];
        }
    }
}

}  // namespace EQK_TARGET
}  // namespace eqk
