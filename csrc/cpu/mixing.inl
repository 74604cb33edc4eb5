// Coupled channels times their weights, a piece at a time, and backward. In one of three ways: each has one weight, or
// a row of a matrix that all rows share, or of a matrix of every row's own, read once:
//   z_k[o] += sum_c A_k[c] w[c, o],   dA_k[c] = sum_o w[c, o] g_k[o],   dw[c, o] += sum_k A_k[c] g_k[o]
#pragma once

#include <algorithm>

#include "couple.inl"

namespace eqk {
namespace EQK_TARGET {

// A piece of a path with its weights; null: not given or not wanted. A, dA (channels, components) and z.v = g, z.d = z
// are lanes; w begins at the piece in the first row, which is the only one if w_row is 0.
template <class T>
struct Weighed {
    const CoupledPath& path;
    const Piece& piece;
    int64_t rows, out;  // of the block, channels of z
    const T* a;
    T* da;
    Side<T> z;
    const T* w;
    int64_t w_row;
    int64_t dim() const { return path.there.size(); }
};

// One weight a channel: w and dw as lanes, w one number a channel if shared; without any it is 1.
template <class T>
void weigh_channels(const Weighed<T>& s, const T* w, T* dw) {
    const int64_t dim = s.dim();
    for (int64_t c = 0; c < s.piece.count; ++c) {
        Wide<T> weight, total = Wide<T>::zero();
        if (w && s.w_row)
            weight = Wide<T>::at(w + c * BLOCK<T>);
        else
            for (int b = 0; b < Wide<T>::packs; ++b) weight.v[b] = spread<T>(w ? w[c] : T(1));
        const int64_t out = s.path.outs[s.piece.first + c] * s.z.channel, at = c * dim * BLOCK<T>;
        for (int64_t k = 0; k < dim; ++k) {
            const int64_t to = out + k * s.z.component, from = at + k * BLOCK<T>;
            if (s.z.d) {
                Wide<T> sum = Wide<T>::at(s.z.d + to);
                sum.add(weight, Wide<T>::at(s.a + from));
                sum.put(s.z.d + to);
            }
            if (s.da) (weight * Wide<T>::at(s.z.v + to)).put(s.da + from);
            if (dw) total.add(Wide<T>::at(s.a + from), Wide<T>::at(s.z.v + to));
        }
        if (dw) total.add(T(1), Wide<T>::at(dw + c * BLOCK<T>)), total.put(dw + c * BLOCK<T>);
    }
}

// A shared matrix; g_rows are (component, row, channels of z) with `padded` channels, and so are the sums dw.
template <class T>
void mix_shared(const Weighed<T>& s, const T* g_rows, int64_t padded, T* dw) {
    constexpr int64_t DEPTH = 64;  // channels of z that are summed before the next
    const int64_t dim = s.dim(), step = dim * BLOCK<T>, count = s.piece.count;
    for (int64_t k = 0; k < dim; ++k) {
        const int64_t z = k * s.z.component;
        if (s.z.d)
            columns<T, TILE_VECTORS>(s.out, {s.w, s.a + k * BLOCK<T>, 1, s.out, step, count}, nullptr, nullptr,
                                     There::part, s.z.d + z, s.z.channel);
        for (int64_t o = 0; s.da && o < s.out; o += DEPTH)
            columns<T, TILE_VECTORS>(
                count, {s.w + o, s.z.v + z + o * s.z.channel, s.out, 1, s.z.channel, std::min(DEPTH, s.out - o)},
                nullptr, nullptr, o ? There::part : There::lost, s.da + k * BLOCK<T>, step);
    }
    for (int64_t o = 0; dw && o < s.out; o += TILE_VECTORS * lanes<T>) {
        const Factors<T> f{s.a, g_rows + o, step, 1, padded, step};
        if (o + TILE_VECTORS * lanes<T> <= padded)
            columns<T, TILE_VECTORS>(count, f, nullptr, nullptr, There::part, dw + o, padded);
        else
            columns<T, 1>(count, f, nullptr, nullptr, There::part, dw + o, padded);
    }
}

// Every row's own matrix, for one row. D components of z: a tile of lanes stays in registers while the weights stream
// by.
template <class T, int D, class Tile>
EQK_INLINE void mix_forward(int64_t channels, const T* a, int64_t a_step, const T* w, int64_t out, T* z, int64_t z_step,
                            Tile) {
    Tile sum[D];
    for (int k = 0; k < D; ++k) sum[k] = Tile::zero();
    for (int64_t c = 0; c < channels; ++c) {
        const Tile weight = Tile::at(w + c * out);
        for (int k = 0; k < D; ++k) sum[k].add(a[k * a_step + c], weight);
    }
    for (int k = 0; k < D; ++k) {
        sum[k].add(T(1), Tile::at(z + k * z_step));
        sum[k].put(z + k * z_step);
    }
}

// dw[c, o] = sum of D a[k, c] g[k, o], or added.
template <class T, int D, class Tile>
EQK_INLINE void mix_weights(int64_t channels, const T* a, int64_t a_step, const T* g, int64_t g_step, bool add, T* dw,
                            int64_t out, Tile) {
    Tile factor[D];
    for (int k = 0; k < D; ++k) factor[k] = Tile::at(g + k * g_step);
    for (int64_t c = 0; c < channels; ++c) {
        Tile sum = add ? Tile::at(dw + c * out) : Tile::zero();
        for (int k = 0; k < D; ++k) sum.add(a[k * a_step + c], factor[k]);
        sum.put(dw + c * out);
    }
}

// da[c] = sum_o w[c, o] g[o] of some channels, at most as many as there are lanes; da has room for a whole vector.
template <class T, class Count>
EQK_INLINE void mix_inputs(Count some, const T* w, int64_t out, const T* g, T* da) {
    constexpr int L = lanes<T>;
    Vec<T> sum[L];  // in the order that `sums` gives back
#pragma GCC unroll 16
    for (int n = 0; n < L; ++n) sum[n] = Vec<T>{};
    int64_t o = 0;
    for (; o + L <= out; o += L) {
        const Vec<T> go = load<T>(g + o);
        const T* row = w + o;
#pragma GCC unroll 16
        for (int n = 0; n < L; ++n, row += out)
            if (n < some) sum[reversed<T>(n)] += load<T>(row) * go, hide(row);
    }
    store<T>(da, sums<T>(sum, L));
    for (int n = 0; o < out && n < some; ++n)
        for (int64_t p = o; p < out; ++p) da[n] += w[n * out + p] * g[p];
}

// f(integral constant D, first) for components [first, first + D) of `dim`.
template <class F>
EQK_INLINE void by_components(int64_t dim, F&& f) {
    int64_t k = 0;
    for (; k + 3 <= dim; k += 3) f(std::integral_constant<int, 3>{}, k);
    for (; k < dim; ++k) f(std::integral_constant<int, 1>{}, k);
}

// Numbers of rows: (component, row, channels), the channels padded.
template <class T>
struct ByRow {
    T* p;
    int64_t padded;
    int64_t step() const { return BLOCK<T> * padded; }
    T* row(int64_t r) const { return p + r * padded; }
};

// All rows of a block; dw of the first row, as far apart as w's rows, is stored or added to.
template <class T>
void mix_own(const Weighed<T>& s, const ByRow<T>& g, const ByRow<T>& z, const ByRow<T>& a, const ByRow<T>& da, bool add,
             T* dw) {
    const int64_t dim = s.dim(), step = dim * BLOCK<T>, count = s.piece.count;
    for (int64_t k = 0; (s.z.d || dw) && k < dim; ++k)
        lanes_to_rows(s.rows, s.a + k * BLOCK<T>, step, count, a.p + k * a.step(), a.padded);
    for (int64_t k = 0; s.z.d && k < dim; ++k)
        lanes_to_rows(s.rows, s.z.d + k * s.z.component, s.z.channel, s.out, z.p + k * z.step(), z.padded);
    for (int64_t r = 0; r < s.rows; ++r) {
        const T* const w = s.w + r * s.w_row;
        if (s.w && r + 1 < s.rows) {
            fetch_row<0>(w + s.w_row, count * s.out);
            if (dw) fetch_row<1>(dw + (r + 1) * s.w_row, count * s.out);
        }
        in_tiles<T>(s.out, [&](auto tile, int64_t o) {
            by_components(dim, [&](auto d, int64_t k) {
                if (s.z.d)
                    mix_forward<T, d>(count, a.row(r) + k * a.step(), a.step(), w + o, s.out,
                                      z.row(r) + k * z.step() + o, z.step(), tile);
                if (dw)
                    mix_weights<T, d>(count, a.row(r) + k * a.step(), a.step(), g.row(r) + k * g.step() + o, g.step(),
                                      add || k, dw + r * s.w_row + o, s.out, tile);
            });
        });
        constexpr int L = lanes<T>;
        for (int64_t c = 0; s.da && c < count; c += L)
            for (int64_t k = 0; k < dim; ++k) {
                T* const to = da.row(r) + k * da.step() + c;
                if (c + L <= count)
                    mix_inputs(std::integral_constant<int, L>{}, w + c * s.out, s.out, g.row(r) + k * g.step(), to);
                else
                    mix_inputs(static_cast<int>(count - c), w + c * s.out, s.out, g.row(r) + k * g.step(), to);
            }
    }
    for (int64_t k = 0; s.z.d && k < dim; ++k)
        rows_to_lanes(s.rows, z.p + k * z.step(), z.padded, s.out, s.z.d + k * s.z.component, s.z.channel);
    for (int64_t k = 0; s.da && k < dim; ++k)
        rows_to_lanes(s.rows, da.p + k * da.step(), da.padded, count, s.da + k * BLOCK<T>, step);
}

}  // namespace EQK_TARGET
}  // namespace eqk
