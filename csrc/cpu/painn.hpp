// PaiNN in one call: atomic energies and their derivatives by the edge vectors, and the gradients that training needs.
//
// K. T. Schuett, O. T. Unke, M. Gastegger, ICML 2021. Every pass is written once on numbers with or without a tangent.
// Without: energies e_n and g = d(sum e_n)/d(vec). With the tangent h of vec and the cotangent c_n of e_n: the
// derivative of [sum (1 + t c_n) e_n](vec + t h) by t at 0 gives sum c e + h . g, and its gradients by the edge vectors
// and by every weight are the tangents of the backward pass. So one pass with tangents is a whole training gradient.
#pragma once

#include <cstdint>

namespace eqk {

struct PainnSizes {
    int64_t layers, channels, hidden, basis, species;
    bool bessel;                    // else Gaussians
    double cutoff, epsilon, width;  // width: that of the Gaussians
};

// Tensors of a model, torch's layout (out, in), in this order: the embedding; of each layer phi.0 weight, bias, phi.1
// weight, bias, filter weight, bias, mix weight, update.0 weight, bias, update.1 weight, bias; readout.0 weight, bias,
// readout.1 weight, bias; centres of the Gaussians, which have no gradient.
constexpr int64_t kPainnLayerTensors = 11;

template <class T>
struct PainnArgs {
    int64_t atoms, edges;
    const int64_t *species, *sender, *receiver;
    const int64_t *receiver_ptr, *receiver_order, *sender_ptr, *sender_order;  // edges grouped by each end
    const T *vec, *packed;                                                     // (E, 3); the weights, packed, or null:
    const T* const* weights;                                                   // the tensors of the model
    // Without tangents. g is d(sum e_n)/d(vec), `forces` its sum over the edges an atom receives less that over those
    // it sends, null if not wanted.
    T *energy, *g, *forces;  // (N), (E, 3), (N, 3)
    // Values of products, which the pass without tangents writes and the one with tangents reads; null: not kept.
    T* kept;
    // With tangents: cotangents of the above (null for zero), results; `d_vec` or `d_weights` null: not wanted.
    const T *d_energy, *d_g, *d_forces;
    T* d_vec;
    T* const* d_weights;
    int threads;
};

struct PainnKept {
    int64_t atoms, each;  // for how many atoms at most, and numbers of each
};

template <class T>
struct PainnRoutines {
    int64_t (*packed_size)(const PainnSizes&);
    PainnKept (*kept)(const PainnSizes&);
    void (*pack)(const PainnSizes&, const T* const* weights, T* packed);
    void (*evaluate)(const PainnSizes&, const PainnArgs<T>&);
    void (*gradient)(const PainnSizes&, const PainnArgs<T>&);
};

struct PainnKernels {
    PainnRoutines<float> f32;
    PainnRoutines<double> f64;
};

}  // namespace eqk
