// Linear maps for Python: a class that owns the table of a program.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <tuple>

#include "../cpu/dispatch.hpp"
#include "../cpu/plan.hpp"

namespace py = pybind11;

namespace {

class Linear {
   public:
    Linear(const eqk::Segments& x, const eqk::Segments& z, bool turn, int64_t w_dim,
           const std::vector<std::tuple<int, int, int64_t, double>>& paths) {
        std::vector<eqk::LinearPath> table;
        for (const auto& [in, out, w, scale] : paths) table.push_back({in, out, w, scale});
        map_ = eqk::make_linear(x, z, turn, w_dim, std::move(table));
    }

    // kinds: rows of w; species: the kind of each row, 0 where all are of kind 0. in: x, w, g; out: z, dx, dw;
    // addresses, 0 for none. Throws IndexError for a kind that w does not have.
    void run(bool f64, int64_t rows, int64_t kinds, uintptr_t species, const std::array<uintptr_t, 3>& in,
             const std::array<uintptr_t, 3>& out, int threads) const {
        py::gil_scoped_release release;
        std::vector<int64_t> ptr, order;
        const auto* of_row = reinterpret_cast<const int64_t*>(species);
        if (of_row) {
            eqk::check_index("species", rows, of_row, kinds);
            ptr.resize(kinds + 1);
            order.resize(rows);
            eqk::plan(rows, of_row, of_row, kinds, kinds, ptr.data(), order.data());
        }
        if (f64)
            call<double>(eqk::active().linear->f64, rows, kinds, ptr, order, in, out, threads);
        else
            call<float>(eqk::active().linear->f32, rows, kinds, ptr, order, in, out, threads);
    }

   private:
    template <class T>
    void call(void (*kernel)(const eqk::LinearMap&, const eqk::LinearArgs<T>&), int64_t rows, int64_t kinds,
              const std::vector<int64_t>& ptr, const std::vector<int64_t>& order, const std::array<uintptr_t, 3>& in,
              const std::array<uintptr_t, 3>& out, int threads) const {
        const auto given = [&](int n) { return reinterpret_cast<const T*>(in[n]); };
        const auto asked = [&](int n) { return reinterpret_cast<T*>(out[n]); };
        kernel(map_, {rows, kinds, ptr.empty() ? nullptr : ptr.data(), order.empty() ? nullptr : order.data(), given(0),
                      given(1), given(2), asked(0), asked(1), asked(2), threads < 1 ? 1 : threads});
    }

    eqk::LinearMap map_;
};

}  // namespace

void bind_linear(py::module_& m) {
    py::class_<Linear>(m, "Linear", "A linear map between equal irreps, its weights shared or by species.")
        .def(py::init<const eqk::Segments&, const eqk::Segments&, bool, int64_t,
                      const std::vector<std::tuple<int, int, int64_t, double>>&>())
        .def("run", &Linear::run);
}
