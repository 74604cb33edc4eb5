// The only file that knows Python: pointers and sizes in, exceptions out.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <tuple>

#include "../cpu/dispatch.hpp"
#include "../cpu/plan.hpp"

namespace py = pybind11;

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
                int64_t y_dim, int64_t w_dim, bool mul_ir, const std::vector<PathTuple>& paths) {
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
        f32_ = eqk::lower(tables, bytes / 4);
        f64_ = eqk::lower(tables, bytes / 8);
    }

    // Pointers in the order of ContractArgs, 0 for none; graph is (x_index, z_ptr, z_order).
    void run(bool f64, std::tuple<int64_t, int64_t, int64_t> rows, std::tuple<uintptr_t, uintptr_t, uintptr_t> graph,
             bool shared_w, bool second, double fixed, const std::vector<uintptr_t>& in, const std::vector<uintptr_t>& out,
             int threads) const {
        if (in.size() != 7 || out.size() != 4) throw std::invalid_argument("seven operands and four results are expected");
        if (f64)
            call(f64_, eqk::active().contract->f64, rows, graph, shared_w, second, fixed, in, out, threads);
        else
            call(f32_, eqk::active().contract->f32, rows, graph, shared_w, second, fixed, in, out, threads);
    }

   private:
    template <class T>
    static void call(const eqk::Lowered& lowered, void (*kernel)(const eqk::Lowered&, const eqk::ContractArgs<T>&),
                     std::tuple<int64_t, int64_t, int64_t> rows, std::tuple<uintptr_t, uintptr_t, uintptr_t> graph, bool shared_w,
                     bool second, double fixed, const std::vector<uintptr_t>& in, const std::vector<uintptr_t>& out, int threads) {
        eqk::ContractArgs<T> a{};
        std::tie(a.edges, a.x_rows, a.z_rows) = rows;
        a.x_index = pointer<const int64_t>(std::get<0>(graph));
        a.z_ptr = pointer<const int64_t>(std::get<1>(graph));
        a.z_order = pointer<const int64_t>(std::get<2>(graph));
        a.shared_w = shared_w;
        a.second = second;
        a.fixed = fixed;
        const T** operands[] = {&a.x, &a.y, &a.w, &a.g, &a.hx, &a.hy, &a.hw};
        T** results[] = {&a.dx, &a.dy, &a.dw, &a.z};
        for (int n = 0; n < 7; ++n) *operands[n] = pointer<const T>(in[n]);
        for (int n = 0; n < 4; ++n) *results[n] = pointer<T>(out[n]);
        a.threads = threads < 1 ? 1 : threads;
        py::gil_scoped_release release;
        kernel(lowered, a);
    }

    eqk::Lowered f32_, f64_;
};

void bind_contract(py::module_& m) {
    py::class_<Contraction>(m, "Contraction")
        .def(py::init<const std::vector<std::pair<int64_t, int64_t>>&, const std::vector<std::pair<int64_t, int64_t>>&, int64_t,
                      int64_t, bool, const std::vector<Contraction::PathTuple>&>())
        .def("run", &Contraction::run);
    m.def("plan", [](int64_t edges, uintptr_t sender, uintptr_t receiver, int64_t senders, int64_t receivers, uintptr_t ptr,
                     uintptr_t order) {
        py::gil_scoped_release release;
        eqk::plan(edges, pointer<const int64_t>(sender), pointer<const int64_t>(receiver), senders, receivers,
                  pointer<int64_t>(ptr), pointer<int64_t>(order));
    });
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
}

}  // namespace

PYBIND11_MODULE(_C, m) {
    bind_targets(m);
    bind_contract(m);
}
