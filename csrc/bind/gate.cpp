// Gates for Python: a class that owns the parts of one.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <stdexcept>
#include <tuple>

#include "../cpu/dispatch.hpp"

namespace py = pybind11;

namespace {

class Gate {
   public:
    using Parts = std::vector<std::tuple<int64_t, int64_t, int, double, int64_t, int64_t, int64_t>>;

    // Throws ValueError for a part that reads or writes beside its row.
    Gate(int64_t columns, int64_t width, const Parts& parts) : gate_{columns, width, {}} {
        const auto outside = [](int64_t first, int64_t count, int64_t all) { return first < 0 || first + count > all; };
        for (const auto& [start, mul, act, scale, gated, dim, out] : parts) {
            if (mul < 0 || dim < 0 || outside(start, mul, columns) || outside(gated, mul * dim, columns) ||
                outside(out, mul * std::max<int64_t>(dim, 1), width))
                throw std::invalid_argument("a part of a gate lies outside its row");
            gate_.parts.push_back({start, mul, static_cast<eqk::Activation>(act), scale, gated, dim, out});
        }
    }

    // x, z, h, out, dx, dz: addresses, 0 for none.
    void run(bool f64, int64_t rows, const std::array<uintptr_t, 6>& at, int threads) const {
        py::gil_scoped_release release;
        if (f64)
            call<double>(eqk::active().gate->f64, rows, at, threads);
        else
            call<float>(eqk::active().gate->f32, rows, at, threads);
    }

   private:
    template <class T>
    void call(void (*kernel)(const eqk::Gate&, const eqk::GateArgs<T>&), int64_t rows,
              const std::array<uintptr_t, 6>& at, int threads) const {
        const auto given = [&](int n) { return reinterpret_cast<const T*>(at[n]); };
        const auto asked = [&](int n) { return reinterpret_cast<T*>(at[n]); };
        kernel(gate_, {rows, given(0), given(1), given(2), asked(3), asked(4), asked(5), threads < 1 ? 1 : threads});
    }

    eqk::Gate gate_;
};

}  // namespace

void bind_gate(py::module_& m) {
    py::class_<Gate>(m, "Gate", "Activated scalars, and irreps times activated gates.")
        .def(py::init<int64_t, int64_t, const Gate::Parts&>())
        .def("run", &Gate::run);
}
