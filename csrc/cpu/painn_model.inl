// PaiNN's weights as matrices for the tiles, and the same for their gradients.
#pragma once

#include "buffer.hpp"
#include "matrix.inl"
#include "painn.hpp"

namespace eqk {
namespace EQK_TARGET {

// Parts of one allocation, each on a cache line; without a base it only counts.
template <class T>
struct Carver {
    T* base;
    int64_t used = 0;
    T* take(int64_t count) {
        T* at = base ? base + used : nullptr;
        used += (count + 15) / 16 * 16;
        return at;
    }
    Packed<T> matrix(int64_t k, int64_t n) { return {take(k * n), k, n}; }
};

// Channels come in sections of P, the channels rounded up to whole vectors. The thirds of an update's output are kept
// in the order (q, q by the product, mu): the last layer needs the first two only.
template <class T>
struct PainnModel {
    struct Layer {
        Packed<T> phi1, phi2, filter, mix, update1, update2;    // x (in, out)
        Packed<T> phi1_t, phi2_t, mix_t, update1_t, update2_t;  // x (out, in), for the backward pass
        T *phi1_bias, *phi2_bias, *update1_bias, *update2_bias;
    };
    int64_t P, H, K;  // padded channels and hidden width; radial functions and one, whose weight is the filters' bias
    std::vector<Layer> layers;
    Packed<T> readout, readout_t;
    T *embedding, *readout_bias, *last, *last_bias, *centres;
    int64_t size;

    PainnModel(const PainnSizes& s, T* base)
        : P(round_up<T>(s.channels)), H(round_up<T>(s.hidden)), K(s.basis + 1), layers(s.layers) {
        Carver<T> c{base};
        embedding = c.take(s.species * P);
        for (Layer& l : layers) {
            l.phi1 = c.matrix(P, P), l.phi2 = c.matrix(P, 3 * P), l.filter = c.matrix(K, 3 * P);
            l.mix = c.matrix(P, 2 * P), l.update1 = c.matrix(2 * P, P), l.update2 = c.matrix(P, 3 * P);
            l.phi1_t = c.matrix(P, P), l.phi2_t = c.matrix(3 * P, P), l.mix_t = c.matrix(2 * P, P);
            l.update1_t = c.matrix(P, 2 * P), l.update2_t = c.matrix(3 * P, P);
            l.phi1_bias = c.take(P), l.phi2_bias = c.take(3 * P);
            l.update1_bias = c.take(P), l.update2_bias = c.take(3 * P);
        }
        readout = c.matrix(P, H), readout_t = c.matrix(H, P);
        readout_bias = c.take(H), last = c.take(H), last_bias = c.take(1);
        centres = c.take(round_up<T>(K));
        size = c.used;
    }
};

// For each padded column its column in torch's tensor, -1 for padding; `order` are the sections as they are kept.
template <class T>
std::vector<int64_t> sections(int64_t width, const std::vector<int64_t>& order) {
    std::vector<int64_t> map;
    for (int64_t section : order)
        for (int64_t c = 0; c < round_up<T>(width); ++c) map.push_back(c < width ? section * width + c : -1);
    return map;
}

template <class T>
void painn_pack(const PainnSizes& s, const T* const* w, T* packed) {
    PainnModel<T> m(s, packed);
    const auto one = sections<T>(s.channels, {0}), two = sections<T>(s.channels, {0, 1});
    const auto three = sections<T>(s.channels, {0, 1, 2}), kept = sections<T>(s.channels, {0, 2, 1});
    const auto hidden = sections<T>(s.hidden, {0});
    const auto vector = [](T* to, const T* from, const std::vector<int64_t>& map) {
        for (size_t c = 0; c < map.size(); ++c) to[c] = map[c] < 0 ? T(0) : from[map[c]];
    };
    const auto both = [](const Packed<T>& forward, const Packed<T>* backward, const T* from,
                         const std::vector<int64_t>& in, const std::vector<int64_t>& out, int64_t width) {
        pack(forward, from, in, 1, out, width);
        if (backward) pack(*backward, from, out, width, in, 1);
    };
    for (int64_t a = 0; a < s.species; ++a) vector(m.embedding + a * m.P, w[0] + a * s.channels, one);
    const T* const* t = w + 1;
    std::vector<int64_t> basis(s.basis);
    for (int64_t k = 0; k < s.basis; ++k) basis[k] = k;
    for (auto& l : m.layers) {
        both(l.phi1, &l.phi1_t, t[0], one, one, s.channels), vector(l.phi1_bias, t[1], one);
        both(l.phi2, &l.phi2_t, t[2], one, three, s.channels), vector(l.phi2_bias, t[3], three);
        // The filters' matrix has the bias as its last row: pack row by row.
        auto rows = basis;
        rows.push_back(-1);
        pack(l.filter, t[4], rows, 1, three, s.basis);
        constexpr int64_t width = TILE_VECTORS * lanes<T>;
        for (int64_t at = 0; at < 3 * m.P; at += width) {
            const int64_t count = std::min(width, 3 * m.P - at);
            for (int64_t j = 0; j < count; ++j)
                l.filter.data[at * m.K + s.basis * count + j] = three[at + j] < 0 ? T(0) : t[5][three[at + j]];
        }
        both(l.mix, &l.mix_t, t[6], one, two, s.channels);
        both(l.update1, &l.update1_t, t[7], two, one, 2 * s.channels), vector(l.update1_bias, t[8], one);
        both(l.update2, &l.update2_t, t[9], one, kept, s.channels), vector(l.update2_bias, t[10], kept);
        t += kPainnLayerTensors;
    }
    both(m.readout, &m.readout_t, t[0], one, hidden, s.channels), vector(m.readout_bias, t[1], hidden);
    vector(m.last, t[2], hidden), m.last_bias[0] = t[3][0];
    std::fill_n(m.centres, round_up<T>(m.K), T(0));
    if (!s.bessel) std::copy_n(t[4], s.basis, m.centres);
}

template <class T>
int64_t painn_packed_size(const PainnSizes& s) {
    return PainnModel<T>(s, nullptr).size;
}

// Gradients of the weights, (out, in) in padded sections but for the filters, (radial functions, out). Where nothing is
// padded the matrices are torch's tensors themselves, `to`.
template <class T>
struct PainnGradients {
    struct Layer {
        T *phi1, *phi1_bias, *phi2, *phi2_bias, *filter, *mix, *update1, *update1_bias, *update2, *update2_bias;
    };
    std::vector<Layer> layers;
    T *embedding, *readout, *readout_bias, *last, *last_bias;
    T* const* to;
    bool padded;
    Buffer<T> memory;

    PainnGradients(const PainnSizes& s, const PainnModel<T>& m, T* const* to_)
        : layers(s.layers), to(to_), padded(m.P != s.channels || m.H != s.hidden) {
        const int64_t size = carve(s, m, nullptr);
        memory = Buffer<T>(size);
        std::fill_n(memory.data(), size, T(0));
        carve(s, m, memory.data());
    }

    int64_t carve(const PainnSizes& s, const PainnModel<T>& m, T* base) {
        const int64_t P = m.P;
        Carver<T> c{base};
        const auto matrix = [&](int64_t size, T* torch) { return padded ? c.take(size) : torch; };
        embedding = c.take(s.species * P);
        T* const* t = to + 1;
        for (Layer& l : layers) {
            l.phi1 = matrix(P * P, t[0]), l.phi1_bias = c.take(P);
            l.phi2 = matrix(3 * P * P, t[2]), l.phi2_bias = c.take(3 * P);
            l.filter = c.take(m.K * 3 * P), l.mix = matrix(2 * P * P, t[6]);
            l.update1 = matrix(2 * P * P, t[7]), l.update1_bias = c.take(P);
            l.update2 = matrix(3 * P * P, t[9]), l.update2_bias = c.take(3 * P);
            t += kPainnLayerTensors;
        }
        readout = matrix(m.H * P, t[0]), readout_bias = c.take(m.H), last = c.take(m.H), last_bias = c.take(1);
        return c.used;
    }

    // To torch's tensors, in the order of the weights.
    void unpack(const PainnSizes& s, const PainnModel<T>& m) const {
        const auto one = sections<T>(s.channels, {0}), two = sections<T>(s.channels, {0, 1});
        const auto three = sections<T>(s.channels, {0, 1, 2}), kept = sections<T>(s.channels, {0, 2, 1});
        const auto hidden = sections<T>(s.hidden, {0}), row = std::vector<int64_t>{0};
        const auto matrix = [](T* out, const T* g, const std::vector<int64_t>& o, const std::vector<int64_t>& i,
                               int64_t width) {
            if (out == g) return;
            for (size_t r = 0; r < o.size(); ++r)
                for (size_t c = 0; o[r] >= 0 && c < i.size(); ++c)
                    if (i[c] >= 0) out[o[r] * width + i[c]] = g[r * i.size() + c];
        };
        for (int64_t a = 0; a < s.species; ++a) matrix(to[0] + a * s.channels, embedding + a * m.P, row, one, 0);
        T* const* t = to + 1;
        for (const Layer& l : layers) {
            matrix(t[0], l.phi1, one, one, s.channels), matrix(t[1], l.phi1_bias, row, one, 0);
            matrix(t[2], l.phi2, three, one, s.channels), matrix(t[3], l.phi2_bias, row, three, 0);
            for (size_t c = 0; c < three.size(); ++c) {
                if (three[c] < 0) continue;
                for (int64_t k = 0; k < s.basis; ++k) t[4][three[c] * s.basis + k] = l.filter[k * 3 * m.P + c];
                t[5][three[c]] = l.filter[s.basis * 3 * m.P + c];
            }
            matrix(t[6], l.mix, two, one, s.channels);
            matrix(t[7], l.update1, one, two, 2 * s.channels), matrix(t[8], l.update1_bias, row, one, 0);
            matrix(t[9], l.update2, three, one, s.channels), matrix(t[10], l.update2_bias, row, kept, 0);
            t += kPainnLayerTensors;
        }
        matrix(t[0], readout, hidden, one, s.channels), matrix(t[1], readout_bias, row, hidden, 0);
        matrix(t[2], last, row, hidden, 0), t[3][0] = last_bias[0];
    }
};

}  // namespace EQK_TARGET
}  // namespace eqk
