// The module; with gate.cpp, linear.cpp, modes.cpp, painn.cpp and symmetric.cpp the only files that know Python:
// pointers and sizes in, exceptions out.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstring>
#include <tuple>

#include "../cpu/bandwidth.hpp"
#include "../cpu/dispatch.hpp"
#include "../cpu/kept.hpp"
#include "../cpu/plan.hpp"
#include "../cpu/spline.hpp"

namespace py = pybind11;

void bind_gate(py::module_& m);       // gate.cpp
void bind_linear(py::module_& m);     // linear.cpp
void bind_modes(py::module_& m);      // modes.cpp
void bind_painn(py::module_& m);      // painn.cpp
void bind_symmetric(py::module_& m);  // symmetric.cpp

namespace {

template <class T>
T* pointer(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

// A channelwise program, lowered for both dtypes on the instruction set in use.
class Contraction {
   public:
    using PathTuple = std::tuple<int, int, int64_t, std::vector<std::tuple<int, int, int, double>>>;

    Contraction(const std::vector<std::pair<int64_t, int64_t>>& x, const std::vector<std::pair<int64_t, int64_t>>& z,
                int64_t y_dim, int64_t w_dim, std::vector<int64_t> offsets, bool mul_ir,
                const std::vector<PathTuple>& paths)
        : offsets_(std::move(offsets)) {
        eqk::Tables tables;
        for (const auto& [mul, dim] : x) tables.x.push_back({mul, dim});
        for (const auto& [mul, dim] : z) tables.z.push_back({mul, dim});
        tables.y_dim = y_dim;
        tables.w_dim = w_dim;
        tables.mul_ir = mul_ir;
        for (const auto& [in1, out, w, nonzeros] : paths) {
            tables.paths.push_back({in1, out, w, {}});
            for (const auto& [i, j, k, c] : nonzeros) tables.paths.back().nonzeros.push_back({i, j, k, c});
        }
        const int64_t bytes = eqk::active().contract->vector_bytes;
        if (offsets_.size() > eqk::kMostRows) throw std::invalid_argument("an edge reads at most 8 rows of a table");
        f32_ = eqk::lower(tables, bytes / 4, !offsets_.empty());
        f64_ = eqk::lower(tables, bytes / 8, !offsets_.empty());
    }

    // Rows: edges, of x, of z, of w (its table). Pointers in the order of ContractArgs, 0 for none; graph is x_index,
    // z_ptr, z_order, knot; in is x y w g hx hy hw b hb; out is dx dy dw z db.
    void run(bool f64, const std::array<int64_t, 4>& rows, const std::array<uintptr_t, 4>& graph, bool shared_w,
             bool second, double fixed, const std::array<uintptr_t, 9>& in, const std::array<uintptr_t, 5>& out,
             int threads) const {
        if (f64)
            call(f64_, eqk::active().contract->f64, rows, graph, shared_w, second, fixed, in, out, threads);
        else
            call(f32_, eqk::active().contract->f32, rows, graph, shared_w, second, fixed, in, out, threads);
    }

   private:
    template <class T>
    void call(const eqk::Lowered& lowered, void (*kernel)(const eqk::Lowered&, const eqk::ContractArgs<T>&),
              const std::array<int64_t, 4>& rows, const std::array<uintptr_t, 4>& graph, bool shared_w, bool second,
              double fixed, const std::array<uintptr_t, 9>& in, const std::array<uintptr_t, 5>& out,
              int threads) const {
        eqk::ContractArgs<T> a{};
        a.edges = rows[0];
        a.x_rows = rows[1];
        a.z_rows = rows[2];
        a.w_rows = rows[3];
        a.x_index = pointer<const int64_t>(graph[0]);
        a.z_ptr = pointer<const int64_t>(graph[1]);
        a.z_order = pointer<const int64_t>(graph[2]);
        a.knot = pointer<const int64_t>(graph[3]);
        a.window = static_cast<int64_t>(offsets_.size());
        a.offsets = offsets_.data();
        a.shared_w = shared_w;
        a.second = second;
        a.fixed = fixed;
        const T** operands[] = {&a.x, &a.y, &a.w, &a.g, &a.hx, &a.hy, &a.hw, &a.b, &a.hb};
        T** results[] = {&a.dx, &a.dy, &a.dw, &a.z, &a.db};
        for (int n = 0; n < 9; ++n) *operands[n] = pointer<const T>(in[n]);
        for (int n = 0; n < 5; ++n) *results[n] = pointer<T>(out[n]);
        a.threads = threads < 1 ? 1 : threads;
        if (a.window > 0 && !a.knot && a.edges > 0) throw std::invalid_argument("a table is read without knots");
        py::gil_scoped_release release;
        eqk::check_graph(a.edges, a.x_index, a.x_rows, a.z_ptr, a.z_order, a.z_rows);
        if (a.window > 0) eqk::check_index("knot", a.edges, a.knot, a.w_rows - offsets_.back());
        kernel(lowered, a);
    }

    std::vector<int64_t> offsets_;
    eqk::Lowered f32_, f64_;
};

void bind_contract(py::module_& m) {
    py::class_<Contraction>(m, "Contraction")
        .def(py::init<const std::vector<std::pair<int64_t, int64_t>>&, const std::vector<std::pair<int64_t, int64_t>>&,
                      int64_t, int64_t, std::vector<int64_t>, bool, const std::vector<Contraction::PathTuple>&>())
        .def("run", &Contraction::run);
    m.def("plan", [](int64_t edges, uintptr_t sender, uintptr_t receiver, int64_t senders, int64_t receivers,
                     uintptr_t ptr, uintptr_t order) {
        py::gil_scoped_release release;
        eqk::plan(edges, pointer<const int64_t>(sender), pointer<const int64_t>(receiver), senders, receivers,
                  pointer<int64_t>(ptr), pointer<int64_t>(order));
    });
}

void bind_spline(py::module_& m) {
    m.def("spline", [](bool f64, int64_t edges, uintptr_t length, const std::vector<double>& breaks,
                       const std::vector<int64_t>& intervals, int order, uintptr_t b, uintptr_t knot) {
        py::gil_scoped_release release;
        if (f64)
            eqk::spline(edges, pointer<const double>(length), breaks, intervals, order, pointer<double>(b),
                        pointer<int64_t>(knot));
        else
            eqk::spline(edges, pointer<const float>(length), breaks, intervals, order, pointer<float>(b),
                        pointer<int64_t>(knot));
    });
}

// Owns the arrays of a HarmonicsTable and runs the active target's kernels on addresses of row-major arrays.
class Harmonics {
   public:
    Harmonics(int lmax, bool normalize, std::vector<int32_t> columns,
              const std::vector<std::tuple<double, double, double, double>>& pairs)
        : columns_(std::move(columns)) {
        if (lmax < 0 || lmax > eqk::kMaxDegree || static_cast<int>(pairs.size()) != eqk::pair(lmax + 1, 0))
            throw std::invalid_argument("Harmonics: sizes of the table do not fit its degree");
        const int components = (lmax + 1) * (lmax + 1);
        bool plain = static_cast<int>(columns_.size()) == components;
        for (int j : columns_)
            if (j < 0 || j >= components) throw std::invalid_argument("Harmonics: column out of range");
        for (int j = 0; plain && j < components; ++j) plain = columns_[j] == j;
        for (const auto& [next, last, polar, ring] : pairs) {
            pairs_.push_back({next, last, polar, ring});
            pairs_float_.push_back({float(next), float(last), float(polar), float(ring)});
        }
        const int64_t dim = static_cast<int64_t>(columns_.size());
        table_ = {lmax, normalize, plain, dim, columns_.data(), pairs_.data(), pairs_float_.data()};
    }
    Harmonics(const Harmonics&) = delete;

    // order 0: value, 1: backward, 2: double backward; an address of 0 is an absent array.
    template <typename T>
    void run(int order, int64_t edges, int threads, const std::vector<uintptr_t>& address) const {
        const auto pointer = [&](int i) { return reinterpret_cast<T*>(address.at(i)); };
        const eqk::HarmonicsArrays<T> arrays{pointer(0), pointer(1), pointer(2), pointer(3), pointer(4), pointer(5)};
        const eqk::HarmonicsOrders<T>& kernels = kernels_of(T());
        (order == 0   ? kernels.value
         : order == 1 ? kernels.backward
                      : kernels.double_backward)(table_, arrays, edges, threads);
    }

   private:
    static const eqk::HarmonicsOrders<float>& kernels_of(float) { return eqk::active().harmonics->single_precision; }
    static const eqk::HarmonicsOrders<double>& kernels_of(double) { return eqk::active().harmonics->double_precision; }

    std::vector<int32_t> columns_;
    std::vector<eqk::HarmonicsPair<double>> pairs_;
    std::vector<eqk::HarmonicsPair<float>> pairs_float_;
    eqk::HarmonicsTable table_{};
};

void bind_harmonics(py::module_& m) {
    using Release = py::call_guard<py::gil_scoped_release>;
    py::class_<Harmonics>(m, "Harmonics", "The spherical harmonics of one specification.")
        .def(
            py::init<int, bool, std::vector<int32_t>, const std::vector<std::tuple<double, double, double, double>>&>())
        .def("run_float", &Harmonics::run<float>, Release())
        .def("run_double", &Harmonics::run<double>, Release());
}

void bind_targets(py::module_& m) {
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
    m.def(
        "fma_peak",
        [](bool f64) {
            py::gil_scoped_release release;
            return f64 ? eqk::active().contract->peak_f64() : eqk::active().contract->peak_f32();
        },
        "Floating-point operations a second that multiply-adds on registers reach on one thread (takes about 0.3 s).");
    m.def("memory_bandwidth", &eqk::memory_bandwidth, py::call_guard<py::gil_scoped_release>(),
          "Bytes a second of a triad on memory by a number of threads (takes about 0.3 s and 192 MB).");
}

void bind_memory(py::module_& m) {
    py::class_<eqk::KeptBlock>(m, "KeptBlock", py::buffer_protocol())
        .def(py::init<int64_t>())
        .def_buffer([](eqk::KeptBlock& b) {
            return py::buffer_info(static_cast<uint8_t*>(b.data()), static_cast<py::ssize_t>(b.bytes()));
        });
    m.def("same", [](uintptr_t a, uintptr_t b, int64_t bytes) {
        py::gil_scoped_release release;
        return bytes == 0 || std::memcmp(pointer<const char>(a), pointer<const char>(b), size_t(bytes)) == 0;
    });
    m.def("release_kept", &eqk::release_kept, py::call_guard<py::gil_scoped_release>(),
          "Give memory that results have left back to the system; returns the bytes.");
}

}  // namespace

PYBIND11_MODULE(_C, m) {
    bind_targets(m);
    bind_memory(m);
    bind_contract(m);
    bind_spline(m);
    bind_harmonics(m);
    bind_gate(m);
    bind_linear(m);
    bind_modes(m);
    bind_painn(m);
    bind_symmetric(m);
}
