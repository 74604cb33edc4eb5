// Weights of a row that mix channels: z[k, o] = sum_c a[k, c] w[c, o], with every row's own w, read once.
#include <omp.h>

#include <algorithm>

#include "modes.hpp"
#include "tiles.inl"

namespace eqk {
namespace EQK_TARGET {

// D components of z: a tile of lanes stays in registers while the weights stream by.
template <class T, int D, class Tile>
EQK_INLINE void mix_forward(int64_t channels, const T* a, int64_t width, const T* w, T* z, int64_t out, Tile) {
    Tile sum[D];
    for (int k = 0; k < D; ++k) sum[k] = Tile::at(z + k * out);
    for (int64_t c = 0; c < channels; ++c) {
        const Tile weight = Tile::at(w + c * out);
        for (int k = 0; k < D; ++k) sum[k].add(a[k * width + c], weight);
    }
    for (int k = 0; k < D; ++k) sum[k].put(z + k * out);
}

// dw[c, o] = sum_k a[k, c] g[k, o]
template <class T, class Tile>
EQK_INLINE void mix_weights(int64_t dim, int64_t channels, const T* a, int64_t width, T* dw, const T* g, int64_t out,
                            Tile) {
    for (int64_t c = 0; c < channels; ++c) {
        Tile sum = Tile::zero();
        for (int64_t k = 0; k < dim; ++k) sum.add(a[k * width + c], Tile::at(g + k * out));
        sum.put(dw + c * out);
    }
}

// da[c] = sum_o w[c, o] g[o], as many channels at once as there are lanes.
template <class T>
void mix_inputs(int64_t channels, const T* w, const T* g, int64_t out, T* da) {
    constexpr int L = lanes<T>;
    for (int64_t c = 0; c < channels; c += L) {
        const int some = static_cast<int>(std::min<int64_t>(L, channels - c));
        Vec<T> sum[L];
        for (int n = 0; n < L; ++n) sum[n] = Vec<T>{};
        int64_t o = 0;
        for (; o + L <= out; o += L) {
            const Vec<T> go = load<T>(g + o);
            if (some == L)
                for (int n = 0; n < L; ++n) sum[n] += load<T>(w + (c + n) * out + o) * go;
            else
                for (int n = 0; n < some; ++n) sum[n] += load<T>(w + (c + n) * out + o) * go;
        }
        const Vec<T> total = sums<T>(sum, L);
        for (int n = 0; n < some; ++n) {
            T rest = 0;
            for (int64_t p = o; p < out; ++p) rest += w[(c + n) * out + p] * g[p];
            da[c + n] = total[reversed<T>(n)] + rest;
        }
    }
}

template <class T>
void mix_row(const std::vector<Mixed>& paths, const MixArgs<T>& s, int64_t row) {
    const T *const w = s.w ? s.w + row * s.w_dim : nullptr, *const g = s.g ? s.g + row * s.dim * s.out : nullptr;
    const T* const a = s.a ? s.a + row * s.dim * s.width : nullptr;
    T *const z = s.z ? s.z + row * s.dim * s.out : nullptr, *const da = s.da ? s.da + row * s.dim * s.width : nullptr;
    if (z) std::fill_n(z, s.dim * s.out, T(0));
    for (const Mixed& p : paths) {
        if (z)
            in_tiles<T>(s.out, [&](auto tile, int64_t o) {
                const auto some = [&](auto d, int64_t k) {
                    mix_forward<T, decltype(d)::value>(p.channels, a + p.a + k * s.width, s.width, w + p.w + o,
                                                       z + k * s.out + o, s.out, tile);
                };
                int64_t k = 0;
                for (; k + 3 <= s.dim; k += 3) some(std::integral_constant<int, 3>{}, k);
                for (; k < s.dim; ++k) some(std::integral_constant<int, 1>{}, k);
            });
        if (da)
            for (int64_t k = 0; k < s.dim; ++k)
                mix_inputs(p.channels, w + p.w, g + k * s.out, s.out, da + p.a + k * s.width);
        if (s.dw)
            in_tiles<T>(s.out, [&](auto tile, int64_t o) {
                mix_weights<T>(s.dim, p.channels, a + p.a, s.width, s.dw + row * s.w_dim + p.w + o, g + o, s.out, tile);
            });
    }
}

template <class T>
void mix(const std::vector<Mixed>& paths, const MixArgs<T>& s) {
    const int threads = s.rows < 64 ? 1 : s.threads;
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t row = 0; row < s.rows; ++row) mix_row(paths, s, row);
}

}  // namespace EQK_TARGET
}  // namespace eqk
