// Products in any connection mode, for Python: pointers and sizes in, exceptions out.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <string>
#include <tuple>

#include "../cpu/dispatch.hpp"
#include "../cpu/plan.hpp"

namespace py = pybind11;

namespace {

template <class T>
T* pointer(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

template <class T>
const eqk::ModeOf<T>& kernels();
template <>
const eqk::ModeOf<float>& kernels<float>() {
    return eqk::active().modes->f32;
}
template <>
const eqk::ModeOf<double>& kernels<double>() {
    return eqk::active().modes->f64;
}

class Coupling {
   public:
    using CellTuple = std::tuple<int, int, int, double>;
    using PathTuple = std::tuple<int, int, int, std::string, int64_t, std::vector<CellTuple>>;
    using SummandsTuple = std::tuple<int, int, bool, std::vector<std::array<int, 2>>>;

    Coupling(const eqk::Segments& x, const eqk::Segments& y, const eqk::Segments& z, bool turn, int64_t w_dim,
             const std::vector<PathTuple>& paths) {
        std::vector<eqk::PathTable> tables;
        for (const auto& [in1, in2, out, mode, w, cells] : paths) {
            tables.push_back({in1, in2, out, mode, w, {}});
            for (const auto& [i, j, k, c] : cells) tables.back().cells.push_back({i, j, k, c});
        }
        tables_ = eqk::make_coupling(x, y, z, turn, w_dim, tables);
    }

    // kinds: 0 to 3, x y w z, of each slot; addresses of the slots and of their derivatives, 0 for none; summands:
    // their slots of w and z, whether unweighted paths take part, their slots of x and y.
    void run(bool f64, int64_t rows, bool shared_w, std::vector<int> kinds, const std::vector<SummandsTuple>& summands,
             const std::vector<uintptr_t>& in, const std::vector<uintptr_t>& out, int threads) const {
        const auto is = [&](int slot, int kind) {
            return slot >= 0 && slot < static_cast<int>(kinds.size()) && kinds[slot] == kind;
        };
        if (in.size() != kinds.size() || out.size() != kinds.size())
            throw std::invalid_argument("every slot has an operand and a result, or 0");
        std::vector<eqk::Summands> sums;
        for (const auto& [w, z, fixed, xy] : summands) {
            if (!is(w, 2) || !is(z, 3) ||
                !std::all_of(xy.begin(), xy.end(), [&](auto& s) { return is(s[0], 0) && is(s[1], 1); }))
                throw std::invalid_argument("a summand reads a slot that is not of its kind");
            sums.push_back({w, z, fixed, xy});
        }
        if (f64)
            call<double>(rows, shared_w, std::move(kinds), std::move(sums), in, out, threads);
        else
            call<float>(rows, shared_w, std::move(kinds), std::move(sums), in, out, threads);
    }

   private:
    template <class T>
    void call(int64_t rows, bool shared_w, std::vector<int> kinds, std::vector<eqk::Summands> summands,
              const std::vector<uintptr_t>& in, const std::vector<uintptr_t>& out, int threads) const {
        eqk::CoupleArgs<T> a{rows, shared_w, std::move(kinds), {}, {}, std::move(summands), threads < 1 ? 1 : threads};
        for (uintptr_t address : in) a.in.push_back(pointer<const T>(address));
        for (uintptr_t address : out) a.out.push_back(pointer<T>(address));
        py::gil_scoped_release release;
        kernels<T>().couple(tables_, a);
    }

    eqk::Coupling tables_;
};

// sizes: rows, mul, dim; each side an address and the distance of its rows.
template <class T>
void turn(std::tuple<int64_t, int64_t, int64_t> sizes, bool turned, bool split, bool add,
          std::pair<uintptr_t, int64_t> from, std::pair<uintptr_t, int64_t> to, int threads) {
    const auto [rows, mul, dim] = sizes;
    if (rows < 0 || mul < 0 || dim < 1) throw std::invalid_argument("a segment has a negative size");
    const eqk::TurnArgs<T> args{rows,
                                mul,
                                dim,
                                turned,
                                split,
                                add,
                                pointer<const T>(from.first),
                                from.second,
                                pointer<T>(to.first),
                                to.second,
                                threads < 1 ? 1 : threads};
    py::gil_scoped_release release;
    kernels<T>().turn(args);
}

// runs: (from, count, to); sizes: first and last node, a_dim, width, rows; in: a, h, g; out: m, da, dh.
template <class T>
void outer(const std::vector<std::tuple<int64_t, int64_t, int64_t>>& runs, const std::vector<int64_t>& sizes,
           std::pair<uintptr_t, uintptr_t> plan, const std::vector<uintptr_t>& in, const std::vector<uintptr_t>& out,
           int threads) {
    if (sizes.size() != 5 || in.size() != 3 || out.size() != 3)
        throw std::invalid_argument("five sizes, three operands and three results are expected");
    const eqk::OuterArgs<T> args{sizes[0],
                                 sizes[1],
                                 sizes[2],
                                 sizes[3],
                                 sizes[4],
                                 pointer<const int64_t>(plan.first),
                                 pointer<const int64_t>(plan.second),
                                 pointer<const T>(in[0]),
                                 pointer<const T>(in[1]),
                                 pointer<const T>(in[2]),
                                 pointer<T>(out[0]),
                                 pointer<T>(out[1]),
                                 pointer<T>(out[2]),
                                 threads < 1 ? 1 : threads};
    std::vector<eqk::ColumnRun> columns;
    for (const auto& [from, count, to] : runs) {
        if (from < 0 || count < 0 || to < 0 || from + count > args.a_dim || to + count > args.rows)
            throw std::invalid_argument("a run lies outside its rows");
        columns.push_back({from, count, to});
    }
    py::gil_scoped_release release;
    kernels<T>().outer(columns, args);
}

// Throws IndexError unless the plan groups `edges` edges by `receivers` receivers.
void check_plan(int64_t edges, int64_t receivers, uintptr_t ptr, uintptr_t order) {
    eqk::check_graph(edges, nullptr, 0, pointer<const int64_t>(ptr), pointer<const int64_t>(order), receivers);
}

}  // namespace

void bind_modes(py::module_& m) {
    py::class_<Coupling>(m, "Coupling", "A product program whose rows are the edges, in any connection mode.")
        .def(py::init<const eqk::Segments&, const eqk::Segments&, const eqk::Segments&, bool, int64_t,
                      const std::vector<Coupling::PathTuple>&>())
        .def("run", &Coupling::run);
    m.def("outer_f32", outer<float>, "Sums of outer products over the edges of nodes.");
    m.def("outer_f64", outer<double>, "Sums of outer products over the edges of nodes.");
    m.def("check_plan", check_plan, "Whether a plan stays inside its arrays.");
    m.def("turn_f32", turn<float>, "One segment of rows in the other order of columns.");
    m.def("turn_f64", turn<double>, "One segment of rows in the other order of columns.");
}
