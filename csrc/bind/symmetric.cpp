// Symmetric contractions for Python: a class that owns the tables of a program.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "../cpu/dispatch.hpp"

namespace py = pybind11;

namespace {

using Columns = std::pair<std::vector<int64_t>, std::vector<int64_t>>;

class SymmetricContraction {
   public:
    // sizes: channels, reads, values. x and z: columns of channel 0 and steps. Terms are sorted by z.
    SymmetricContraction(std::array<int64_t, 3> sizes, Columns x, Columns z,
                         const std::vector<std::tuple<int, int, int>>& products,
                         const std::vector<std::pair<int, int>>& terms)
        : x_(std::move(x)), z_(std::move(z)) {
        const auto [channels, reads, values] = sizes;
        const int64_t components = x_.first.size(), columns = z_.first.size();
        if (channels < 1 || reads < 1 || x_.second.size() != x_.first.size() || z_.second.size() != z_.first.size())
            throw std::invalid_argument("SymmetricContraction: sizes do not fit");
        int64_t known = reads * components;
        for (const auto& [out, a, b] : products) {
            // A value is complete before the next one begins.
            if (out < 0 || out > known || out + 1 < known || a < 0 || b < 0 || a >= out || b >= out)
                throw std::invalid_argument("SymmetricContraction: a product reads what is not made yet");
            known = out + 1;
            products_.push_back({out, a, b});
        }
        int last = 0;
        for (const auto& [column, value] : terms) {
            if (column < last || column >= columns || value < 0 || value >= known)
                throw std::invalid_argument("SymmetricContraction: a term is out of range or order");
            last = column;
            terms_.push_back({column, value});
        }
        if (known != values) throw std::invalid_argument("SymmetricContraction: values do not fit");
        table_ = {channels,
                  reads,
                  components,
                  channels * components,
                  columns,
                  channels * columns,
                  values,
                  static_cast<int64_t>(products_.size()),
                  static_cast<int64_t>(terms_.size()),
                  x_.first.data(),
                  x_.second.data(),
                  z_.first.data(),
                  z_.second.data(),
                  products_.data(),
                  terms_.data()};
    }
    SymmetricContraction(const SymmetricContraction&) = delete;

    // in: w, z, x_S ...; out: dw, dz, dx_S ...; 0 is an absent array.
    template <typename T>
    void run(int64_t nodes, int64_t species_count, uintptr_t species, const std::vector<uintptr_t>& in,
             const std::vector<uintptr_t>& out, int threads) const {
        const size_t count = 2 + table_.reads;
        if (in.size() != count || out.size() != count) throw std::invalid_argument("SymmetricContraction: operands");
        py::gil_scoped_release release;
        const auto* kinds = reinterpret_cast<const int64_t*>(species);
        std::vector<int64_t> start(species_count + 1, 0), order(nodes);
        for (int64_t n = 0; n < nodes; ++n) {
            if (kinds[n] < 0 || kinds[n] >= species_count)
                throw std::invalid_argument("species out of range: there are " + std::to_string(species_count) +
                                            ", node " + std::to_string(n) + " is of species " +
                                            std::to_string(kinds[n]));
            ++start[kinds[n] + 1];
        }
        for (int64_t s = 0; s < species_count; ++s) start[s + 1] += start[s];
        for (int64_t n = 0; n < nodes; ++n) order[start[kinds[n]]++] = n;
        std::vector<const T*> x;
        std::vector<T*> dx;
        bool wants_x = false;
        for (size_t n = 2; n < count; ++n) {
            x.push_back(reinterpret_cast<const T*>(in[n]));
            dx.push_back(reinterpret_cast<T*>(out[n]));
            wants_x |= out[n] != 0;
        }
        const auto* w = reinterpret_cast<const T*>(in[0]);
        const auto* z = reinterpret_cast<const T*>(in[1]);
        auto* dw = reinterpret_cast<T*>(out[0]);
        auto* dz = reinterpret_cast<T*>(out[1]);
        if (nodes > 0 && table_.terms > 0 && ((!w && (dz || wants_x)) || (!z && (dw || wants_x))))
            throw std::invalid_argument("SymmetricContraction: an operand that is read is absent");
        kernel(T())(table_, {nodes, order.data(), kinds, w, z, x.data(), dw, dz, wants_x ? dx.data() : nullptr},
                    threads < 1 ? 1 : threads);
    }

   private:
    static eqk::SymmetricKernel<float> kernel(float) { return eqk::active().symmetric->single_precision; }
    static eqk::SymmetricKernel<double> kernel(double) { return eqk::active().symmetric->double_precision; }

    Columns x_, z_;
    std::vector<eqk::SymmetricProduct> products_;
    std::vector<eqk::SymmetricTerm> terms_;
    eqk::SymmetricTable table_{};
};

}  // namespace

void bind_symmetric(py::module_& m) {
    py::class_<SymmetricContraction>(m, "SymmetricContraction", "The tables of one symmetric contraction.")
        .def(py::init<std::array<int64_t, 3>, Columns, Columns, const std::vector<std::tuple<int, int, int>>&,
                      const std::vector<std::pair<int, int>>&>())
        .def("run_float", &SymmetricContraction::run<float>)
        .def("run_double", &SymmetricContraction::run<double>);
}
