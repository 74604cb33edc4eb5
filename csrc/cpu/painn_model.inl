// PaiNN's weights as matrices for the tiles, packed or where they lie, and the same for their gradients.
#pragma once

#include <numeric>

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
    Matrix<T> matrix(int64_t k, int64_t n) { return {k, n, take(k * n)}; }
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
bool padded(const PainnSizes& s) {
    return s.channels % lanes<T> || s.hidden % lanes<T>;
}

// Which matrices are packed; the others are read where they lie, as they can be if nothing is padded. To pack all is
// for many evaluations; what goes forward reads W^T and gains from it if there are many atoms.
enum class Packing { ALL, FORWARD, NONE };

// Channels come in sections of P, the channels rounded up to whole vectors. The thirds of an update's output are kept
// in the order (q, q by the product, mu): the last layer needs the first two only.
template <class T>
class PainnModel {
   public:
    struct Layer {
        Matrix<T> phi1, phi2, filter, mix, update1, update2;    // x (in, out)
        Matrix<T> phi1_t, phi2_t, mix_t, update1_t, update2_t;  // x (out, in), for the backward pass
        const T *phi1_bias, *phi2_bias, *update1_bias, *update2_bias;
    };
    int64_t P, H, K;  // padded channels and hidden width; radial functions and one, whose weight is the filters' bias
    std::vector<Layer> layers;
    Matrix<T> readout, readout_t;
    const T *embedding, *readout_bias, *last, *last_bias, *centres = nullptr;
    int64_t size;

    // Packs torch's tensors into `base`; without tensors it is what was packed there, without `base` it only counts.
    PainnModel(const PainnSizes& s, T* base, Packing packing, const T* const* tensors)
        : P(round_up<T>(s.channels)),
          H(round_up<T>(s.hidden)),
          K(s.basis + 1),
          layers(s.layers),
          carver_{base},
          packing_(packing),
          tensor_(tensors),
          fill_(base && tensors) {
        const int64_t C = s.channels;
        embedding = packing == Packing::ALL ? table(s.species, C) : next();
        for (Layer& l : layers) {
            linear(l.phi1, l.phi1_t, C, {0}, C, {0}), l.phi1_bias = vector(C, {0});
            linear(l.phi2, l.phi2_t, C, {0}, C, {0, 1, 2}), l.phi2_bias = vector(C, {0, 1, 2});
            l.filter = filters(s.basis, C);
            linear(l.mix, l.mix_t, C, {0}, C, {0, 1});
            linear(l.update1, l.update1_t, C, {0, 1}, C, {0}), l.update1_bias = vector(C, {0});
            linear(l.update2, l.update2_t, C, {0}, C, {0, 2, 1}), l.update2_bias = vector(C, {0, 2, 1});
        }
        linear(readout, readout_t, C, {0}, s.hidden, {0}), readout_bias = vector(s.hidden, {0});
        last = vector(s.hidden, {0}), last_bias = vector(1, {0});
        // Read in whole vectors, up to the one beyond the last function.
        if (!s.bessel) centres = vector(s.basis, {0}), carver_.take(lanes<T>);
        size = carver_.used;
    }

   private:
    using Order = std::vector<int64_t>;

    const T* next() { return tensor_ ? *tensor_++ : nullptr; }

    const T* vector(int64_t width, const Order& order) { return table(1, width, order); }

    const T* table(int64_t rows, int64_t width, const Order& order = {0}) {
        const int64_t row = round_up<T>(width) * static_cast<int64_t>(order.size());
        T* const to = carver_.take(rows * row);
        const T* const from = next();
        if (!fill_) return to;
        const auto map = sections<T>(width, order);
        for (int64_t r = 0; r < rows; ++r)
            for (int64_t c = 0; c < row; ++c) to[r * row + c] = map[c] < 0 ? T(0) : from[r * width + map[c]];
        return to;
    }

    // A weight (out, in) for both directions, of sections of in and out.
    void linear(Matrix<T>& forward, Matrix<T>& backward, int64_t in_width, const Order& in, int64_t out_width,
                const Order& out) {
        const T* const w = next();
        const int64_t n = round_up<T>(in_width) * static_cast<int64_t>(in.size());
        const int64_t m = round_up<T>(out_width) * static_cast<int64_t>(out.size());
        const bool one = packing_ != Packing::NONE, both = packing_ == Packing::ALL;
        forward = one ? carver_.matrix(n, m) : in_place(w, n, m, out_width, out, true);
        backward = both ? carver_.matrix(m, n) : in_place(w, m, n, out_width, out, false);
        if (!fill_ || !one) return;
        const auto rows = sections<T>(in_width, in), columns = sections<T>(out_width, out);
        const int64_t step = in_width * static_cast<int64_t>(in.size());
        pack(forward, w, rows, 1, columns, step);
        if (both) pack(backward, w, columns, step, rows, 1);
    }

    static Matrix<T> in_place(const T* w, int64_t k, int64_t n, int64_t section, const Order& out, bool turned) {
        Matrix<T> b{k, n, nullptr, {}, section, turned};
        for (size_t part = 0; part < out.size(); ++part) b.sections[part] = w + out[part] * section * (turned ? k : n);
        return b;
    }

    // The filters' matrix has their bias as its last row.
    Matrix<T> filters(int64_t basis, int64_t width) {
        const Matrix<T> b = carver_.matrix(K, 3 * P);
        const T *const w = next(), *const bias = next();
        if (!fill_) return b;
        const auto out = sections<T>(width, {0, 1, 2});
        std::vector<int64_t> rows(K, -1);
        std::iota(rows.begin(), rows.end() - 1, 0);
        pack(b, w, rows, 1, out, basis);
        constexpr int64_t panel = TILE_VECTORS * lanes<T>;
        for (int64_t at = 0; at < b.n; at += panel) {
            const int64_t count = std::min(panel, b.n - at);
            for (int64_t j = 0; j < count; ++j)
                b.packed[at * K + basis * count + j] = out[at + j] < 0 ? T(0) : bias[out[at + j]];
        }
        return b;
    }

    Carver<T> carver_;
    Packing packing_;
    const T* const* tensor_;
    bool fill_;
};

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
    bool is_padded;
    Buffer<T> memory;

    PainnGradients(const PainnSizes& s, const PainnModel<T>& m, T* const* to_)
        : layers(s.layers), to(to_), is_padded(padded<T>(s)) {
        const int64_t size = carve(s, m, nullptr);
        memory = Buffer<T>(size);
        std::fill_n(memory.data(), size, T(0));
        carve(s, m, memory.data());
        std::fill_n(embedding, s.species * m.P, T(0));
    }

    int64_t carve(const PainnSizes& s, const PainnModel<T>& m, T* base) {
        const int64_t P = m.P;
        Carver<T> c{base};
        const auto matrix = [&](int64_t size, T* torch) { return is_padded ? c.take(size) : torch; };
        embedding = matrix(s.species * P, to[0]);
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
        std::vector<int64_t> species(s.species);
        std::iota(species.begin(), species.end(), 0);
        const auto matrix = [](T* out, const T* g, const std::vector<int64_t>& o, const std::vector<int64_t>& i,
                               int64_t width) {
            if (out == g) return;
            for (size_t r = 0; r < o.size(); ++r)
                for (size_t c = 0; o[r] >= 0 && c < i.size(); ++c)
                    if (i[c] >= 0) out[o[r] * width + i[c]] = g[r * i.size() + c];
        };
        matrix(to[0], embedding, species, one, s.channels);
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
