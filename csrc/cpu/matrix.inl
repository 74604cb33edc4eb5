// Products of rows with small matrices that are packed once: C = A B (+ bias), and sums of outer products C += A^T B.
#pragma once

#include <algorithm>
#include <vector>

#include "vector.hpp"

namespace eqk {
namespace EQK_TARGET {

constexpr int TILE_ROWS = EQK_VECTOR_BYTES == 64 ? 8 : 5, TILE_VECTORS = 2;  // what the registers hold

// A matrix (k, n), n a multiple of the lanes: panels of TILE_VECTORS vectors of columns, each row by row.
template <class T>
struct Packed {
    T* data;
    int64_t k, n;
};

template <class T>
int64_t round_up(int64_t n) {
    return (n + lanes<T> - 1) / lanes<T> * lanes<T>;
}

// C (R, V vectors) from A (a_row, a_k are its strides) and B's k rows; `start`: 0 zero, 1 the bias, 2 what is there.
template <class T, int R, int V>
EQK_INLINE void tile(int64_t k, const T* a, int64_t a_row, int64_t a_k, const T* b, int64_t b_row, const T* bias,
                     bool add, T* c, int64_t c_row) {
    Vec<T> sum[R][V];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v)
            sum[r][v] = add ? load(c + r * c_row + v * lanes<T>) : bias ? load(bias + v * lanes<T>) : Vec<T>{};
    for (int64_t i = 0; i < k; ++i, a += a_k, b += b_row) {
        Vec<T> column[V];
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) column[v] = load(b + v * lanes<T>);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            const Vec<T> s = spread<T>(a[r * a_row]);
#pragma GCC unroll 2
            for (int v = 0; v < V; ++v) sum[r][v] += s * column[v];
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) store(c + r * c_row + v * lanes<T>, sum[r][v]);
}

// V vectors of columns of C, all rows, in tiles of nearly equal height.
template <class T, int V>
void columns(int64_t rows, int64_t k, const T* a, int64_t a_row, int64_t a_k, const T* b, int64_t b_row, const T* bias,
             bool add, T* c, int64_t c_row) {
    const int64_t tiles = (rows + TILE_ROWS - 1) / TILE_ROWS;
    for (int64_t n = 0, row = 0; n < tiles; ++n) {
        const int64_t height = rows / tiles + (n < rows % tiles);
        const T* at = a + row * a_row;
        T* to = c + row * c_row;
#define EQK_TILE(R)                                                       \
    case R:                                                               \
        tile<T, R, V>(k, at, a_row, a_k, b, b_row, bias, add, to, c_row); \
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
#endif
        }
#undef EQK_TILE
        row += height;
    }
}

// C (rows, n) = A (rows, k) B + bias, or C += A B: the first k rows and n columns of B.
template <class T>
void multiply(int64_t rows, const T* a, int64_t a_row, const Packed<T>& b, int64_t k, int64_t n, const T* bias,
              bool add, T* c, int64_t c_row) {
    constexpr int64_t width = TILE_VECTORS * lanes<T>;
    int64_t at = 0;
    for (; at + width <= n; at += width)
        columns<T, TILE_VECTORS>(rows, k, a, a_row, 1, b.data + at * b.k, std::min(width, b.n - at),
                                 bias ? bias + at : nullptr, add, c + at, c_row);
    if (at < n)
        columns<T, 1>(rows, k, a, a_row, 1, b.data + at * b.k, std::min(width, b.n - at), bias ? bias + at : nullptr,
                      add, c + at, c_row);
}

// C (m, n) = A^T B over rows, or C += A^T B: A (rows, m), B (rows, n), n a multiple of the lanes.
template <class T>
void outer(int64_t rows, const T* a, int64_t a_row, int64_t m, const T* b, int64_t b_row, int64_t n, bool add, T* c,
           int64_t c_row) {
    constexpr int64_t width = TILE_VECTORS * lanes<T>;
    int64_t at = 0;
    for (; at + width <= n; at += width)
        columns<T, TILE_VECTORS>(m, rows, a, 1, a_row, b + at, b_row, static_cast<const T*>(nullptr), add, c + at,
                                 c_row);
    if (at < n) columns<T, 1>(m, rows, a, 1, a_row, b + at, b_row, static_cast<const T*>(nullptr), add, c + at, c_row);
}

// Pack B[i][j] = from[row[i] * row_step + column[j] * column_step], zero where row or column is -1.
template <class T>
void pack(const Packed<T>& b, const T* from, const std::vector<int64_t>& row, int64_t row_step,
          const std::vector<int64_t>& column, int64_t column_step) {
    constexpr int64_t width = TILE_VECTORS * lanes<T>;
    for (int64_t at = 0; at < b.n; at += width) {
        const int64_t count = std::min(width, b.n - at);
        T* to = b.data + at * b.k;
        int64_t start[width];
        bool all = count == width, beside = all && column_step == 1;
        for (int64_t j = 0; j < count; ++j) {
            start[j] = column[at + j] * column_step;
            all = all && start[j] >= 0;
            beside = beside && all && start[j] == start[0] + j;
        }
        for (int64_t i = 0; i < b.k; ++i, to += count) {
            const T* line = from + row[i] * row_step;
            if (row[i] < 0)
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
