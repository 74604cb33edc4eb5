// PaiNN's passes for Python: addresses and sizes in, exceptions out.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <stdexcept>
#include <string>

#include "../cpu/dispatch.hpp"

namespace py = pybind11;

namespace {

template <class T>
T* pointer(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

const eqk::PainnRoutines<float>& routines(float) { return eqk::active().painn->f32; }
const eqk::PainnRoutines<double>& routines(double) { return eqk::active().painn->f64; }

void check_species(int64_t atoms, const int64_t* species, int64_t kinds) {
    for (int64_t n = 0; n < atoms; ++n)
        if (species[n] < 0 || species[n] >= kinds)
            throw std::out_of_range("species of atom " + std::to_string(n) + " is " + std::to_string(species[n]) +
                                    "; the model's embedding has " + std::to_string(kinds));
}

// Edges at positions ptr[n] ... ptr[n + 1] of `order` have the end n, and rise: so every edge is there, once.
void check_grouped(const char* what, int64_t atoms, int64_t edges, const int64_t* end, const int64_t* ptr,
                   const int64_t* order) {
    const auto refuse = [&] {
        throw std::out_of_range(std::string("the edges are not grouped by ") + what +
                                "; build a new Graph when the edges change");
    };
    if (ptr[0] != 0 || ptr[atoms] != edges) refuse();
    for (int64_t n = 0; n < atoms; ++n) {
        if (ptr[n] > ptr[n + 1] || ptr[n + 1] > edges) refuse();
        for (int64_t at = ptr[n]; at < ptr[n + 1]; ++at)
            if (order[at] < 0 || order[at] >= edges || end[order[at]] != n ||
                (at > ptr[n] && order[at - 1] >= order[at]))
                refuse();
    }
}

// A model's sizes; its tensors and those of a graph are addresses.
class Painn {
   public:
    Painn(int64_t layers, int64_t channels, int64_t hidden, int64_t basis, int64_t species, bool bessel, double cutoff,
          double epsilon, double width)
        : sizes_{layers, channels, hidden, basis, species, bessel, cutoff, epsilon, width} {
        if (layers < 1 || channels < 1 || hidden < 1 || basis < 1 || species < 1 || !(cutoff > 0) || !(epsilon > 0) ||
            !(width > 0))
            throw std::invalid_argument("Painn: sizes, cutoff, epsilon and width must be positive");
    }

    int64_t packed_size(bool f64) const {
        return f64 ? routines(double()).packed_size(sizes_) : routines(float()).packed_size(sizes_);
    }

    // For how many atoms at most products are kept, and how many numbers for each.
    std::pair<int64_t, int64_t> kept(bool f64) const {
        const eqk::PainnKept k = f64 ? routines(double()).kept(sizes_) : routines(float()).kept(sizes_);
        return {k.atoms, k.each};
    }

    template <class T>
    void pack(const std::vector<uintptr_t>& weights, uintptr_t packed) const {
        const auto from = pointers<const T>(weights);
        py::gil_scoped_release release;
        routines(T()).pack(sizes_, from.data(), pointer<T>(packed));
    }

    // graph: species, sender, receiver, receiver's ptr and order, sender's ptr and order. weights: the tensors, or one
    // address of what is packed. out: energy, g and forces, or with `gradient` their cotangents (0: none) and the
    // gradient by vec.
    template <class T>
    void run(bool gradient, int64_t atoms, int64_t edges, const std::array<uintptr_t, 7>& graph, uintptr_t vec,
             const std::vector<uintptr_t>& weights, uintptr_t kept, const std::array<uintptr_t, 4>& out,
             const std::vector<uintptr_t>& d_weights, int threads) const {
        eqk::PainnArgs<T> a{};
        a.atoms = atoms, a.edges = edges;
        const int64_t** arrays[] = {&a.species,        &a.sender,     &a.receiver,    &a.receiver_ptr,
                                    &a.receiver_order, &a.sender_ptr, &a.sender_order};
        for (int n = 0; n < 7; ++n) *arrays[n] = pointer<const int64_t>(graph[n]);
        a.vec = pointer<const T>(vec), a.kept = pointer<T>(kept);
        const bool packed = weights.size() == 1;
        const auto tensors = packed ? std::vector<const T*>() : pointers<const T>(weights);
        if (packed)
            a.packed = pointer<const T>(weights[0]);
        else
            a.weights = tensors.data();
        if (gradient) {
            const T** cotangents[] = {&a.d_energy, &a.d_g, &a.d_forces};
            for (int n = 0; n < 3; ++n) *cotangents[n] = pointer<const T>(out[n]);
            a.d_vec = pointer<T>(out[3]);
        } else {
            a.energy = pointer<T>(out[0]), a.g = pointer<T>(out[1]), a.forces = pointer<T>(out[2]);
        }
        const auto gradients = d_weights.empty() ? std::vector<T*>() : pointers<T>(d_weights);
        a.d_weights = d_weights.empty() ? nullptr : gradients.data();
        a.threads = threads < 1 ? 1 : threads;
        py::gil_scoped_release release;
        check_species(atoms, a.species, sizes_.species);
        check_grouped("receiver", atoms, edges, a.receiver, a.receiver_ptr, a.receiver_order);
        check_grouped("sender", atoms, edges, a.sender, a.sender_ptr, a.sender_order);
        (gradient ? routines(T()).gradient : routines(T()).evaluate)(sizes_, a);
    }

   private:
    template <class T>
    std::vector<T*> pointers(const std::vector<uintptr_t>& addresses) const {
        if (static_cast<int64_t>(addresses.size()) != 5 + !sizes_.bessel + eqk::kPainnLayerTensors * sizes_.layers)
            throw std::invalid_argument("Painn: the number of weights does not fit the layers");
        std::vector<T*> found;
        for (uintptr_t address : addresses) found.push_back(pointer<T>(address));
        return found;
    }

    eqk::PainnSizes sizes_;
};

}  // namespace

void bind_painn(py::module_& m) {
    py::class_<Painn>(m, "Painn", "PaiNN of given sizes.")
        .def(py::init<int64_t, int64_t, int64_t, int64_t, int64_t, bool, double, double, double>())
        .def("packed_size", &Painn::packed_size)
        .def("kept", &Painn::kept)
        .def("pack_float", &Painn::pack<float>)
        .def("pack_double", &Painn::pack<double>)
        .def("run_float", &Painn::run<float>)
        .def("run_double", &Painn::run<double>);
}
