// The only file that knows Python: pointers and sizes in, exceptions out.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "../cpu/dispatch.hpp"

namespace py = pybind11;

// ---- harmonics ----
namespace {

// Owns the arrays of a HarmonicsTable and runs the active target's kernels on addresses of row-major arrays.
class Harmonics {
  public:
    Harmonics(int lmax, bool normalize, double constant, std::vector<int32_t> columns, std::vector<int32_t> offset,
              std::vector<int32_t> source, std::vector<double> coefficient)
        : columns_(std::move(columns)), offset_(std::move(offset)), source_(std::move(source)),
          coefficient_(std::move(coefficient)), coefficient_float_(coefficient_.begin(), coefficient_.end()) {
        const int components = (lmax + 1) * (lmax + 1);
        if (lmax < 0 || lmax > eqk::kMaxDegree || static_cast<int>(offset_.size()) != 3 * components + 1 ||
            source_.size() != coefficient_.size() || offset_.back() != static_cast<int32_t>(source_.size()))
            throw std::invalid_argument("Harmonics: sizes of the table do not fit its degree");
        for (int j : source_)
            if (j < 0 || j >= components) throw std::invalid_argument("Harmonics: source out of range");
        for (int j : columns_) {
            if (j < 0 || j >= components) throw std::invalid_argument("Harmonics: column out of range");
            for (int l = 0; l <= lmax; ++l)
                if (l * l <= j && j < (l + 1) * (l + 1)) used_[l] = true;
        }
        table_ = {lmax, normalize, constant, static_cast<int64_t>(columns_.size()), columns_.data(), used_,
                  offset_.data(), source_.data(), coefficient_.data(), coefficient_float_.data()};
    }
    Harmonics(const Harmonics&) = delete;

    // order 0: value, 1: backward, 2: double backward; an address of 0 is an absent array.
    template <typename T>
    void run(int order, int64_t edges, int threads, const std::vector<uintptr_t>& address) const {
        const auto pointer = [&](int i) { return reinterpret_cast<T*>(address.at(i)); };
        const eqk::HarmonicsArrays<T> arrays{pointer(0), pointer(1), pointer(2), pointer(3), pointer(4), pointer(5)};
        const eqk::HarmonicsOrders<T>& kernels = kernels_of(T());
        (order == 0 ? kernels.value : order == 1 ? kernels.backward : kernels.double_backward)(table_, arrays, edges, threads);
    }

  private:
    static const eqk::HarmonicsOrders<float>& kernels_of(float) { return eqk::active().harmonics->single_precision; }
    static const eqk::HarmonicsOrders<double>& kernels_of(double) { return eqk::active().harmonics->double_precision; }

    std::vector<int32_t> columns_, offset_, source_;
    std::vector<double> coefficient_;
    std::vector<float> coefficient_float_;
    bool used_[eqk::kMaxDegree + 1] = {};
    eqk::HarmonicsTable table_{};
};

void bind_harmonics(py::module_& m) {
    using Release = py::call_guard<py::gil_scoped_release>;
    py::class_<Harmonics>(m, "Harmonics", "The spherical harmonics of one specification.")
        .def(py::init<int, bool, double, std::vector<int32_t>, std::vector<int32_t>, std::vector<int32_t>,
                      std::vector<double>>())
        .def("run_float", &Harmonics::run<float>, Release())
        .def("run_double", &Harmonics::run<double>, Release());
}

}  // namespace
// ---- end of harmonics ----

PYBIND11_MODULE(_C, m) {
    m.def("cpu_target", [] { return std::string(eqk::active().name); }, "The instruction set in use.");
    m.def(
        "cpu_targets",
        [] {
            std::vector<std::string> names;
            for (const eqk::Implementation* impl : eqk::implementations())
                if (impl->supported()) names.emplace_back(impl->name);
            return names;
        },
        "The instruction sets this machine can run, best first.");
    bind_harmonics(m);
}
