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
    // sizes: channels, reads, values. x and z: columns of channel 0 and steps. Terms, in the order of the rows of w:
    // column of z, value.
    SymmetricContraction(std::array<int64_t, 3> sizes, Columns x, Columns z,
                         const std::vector<std::tuple<int, int, int>>& products,
                         const std::vector<std::pair<int, int>>& terms)
        : x_(std::move(x)), z_(std::move(z)) {
        const auto [channels, reads, values] = sizes;
        const int64_t components = x_.first.size(), columns = z_.first.size();
        if (channels < 1 || reads < 1 || x_.second.size() != x_.first.size() || z_.second.size() != z_.first.size())
            throw std::invalid_argument("SymmetricContraction: sizes do not fit");
        int64_t known = reads * components;
        std::vector<bool> read;
        for (const auto& [out, a, b] : products) {
            // A value is complete before the next one begins.
            if (out < 0 || out > known || out + 1 < known || a < 0 || b < 0 || a >= out || b >= out)
                throw std::invalid_argument("SymmetricContraction: a product reads what is not made yet");
            known = out + 1;
            read.resize(known, false);
            read[a] = read[b] = true;
        }
        read.resize(known, false);
        for (const auto& [column, value] : terms)
            if (column < 0 || column >= columns || value < 0 || value >= known)
                throw std::invalid_argument("SymmetricContraction: a term is out of range");
        if (known != values) throw std::invalid_argument("SymmetricContraction: values do not fit");
        const int64_t kept = keep(reads * components, products, read);
        const int64_t inner = products_.size();
        add_monomials(products, terms, known);
        table_ = {channels,
                  reads,
                  components,
                  channels * components,
                  columns,
                  channels * columns,
                  kept,
                  static_cast<int64_t>(terms.size()),
                  inner,
                  static_cast<int64_t>(monomials_.size()),
                  x_.first.data(),
                  x_.second.data(),
                  z_.first.data(),
                  z_.second.data(),
                  products_.data(),
                  monomials_.data(),
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
        if (nodes > 0 && table_.rows > 0 && ((!w && (dz || wants_x)) || (!z && (dw || wants_x))))
            throw std::invalid_argument("SymmetricContraction: an operand that is read is absent");
        kernel(T())(table_, {nodes, order.data(), kinds, w, z, x.data(), dw, dz, wants_x ? dx.data() : nullptr},
                    threads < 1 ? 1 : threads);
    }

   private:
    using Products = std::vector<std::tuple<int, int, int>>;

    // Numbers the values that are kept, those of x and what some product reads, and takes over the products that make
    // them; the others have number -1. Returns how many are kept.
    int64_t keep(int64_t given, const Products& products, const std::vector<bool>& read) {
        number_.assign(read.size(), -1);
        int64_t kept = 0;
        for (; kept < given; ++kept) number_[kept] = kept;
        for (const auto& [out, a, b] : products) {
            if (!read[out]) continue;
            if (number_[out] < 0) number_[out] = kept++;
            products_.push_back({number_[out], number_[a], number_[b]});
        }
        return kept;
    }

    // The values of terms, in the order of the first term of each.
    void add_monomials(const Products& products, const std::vector<std::pair<int, int>>& terms, int64_t values) {
        std::vector<std::vector<eqk::SymmetricTerm>> of(values);
        std::vector<std::vector<eqk::SymmetricProduct>> made(values);
        std::vector<int> order;
        for (size_t t = 0; t < terms.size(); ++t) {
            if (of[terms[t].second].empty()) order.push_back(terms[t].second);
            of[terms[t].second].push_back({terms[t].first, static_cast<int32_t>(t)});
        }
        for (const auto& [out, a, b] : products)
            if (number_[out] < 0) made[out].push_back({-1, number_[a], number_[b]});
        for (int value : order) {
            const auto product = static_cast<int32_t>(products_.size()), term = static_cast<int32_t>(terms_.size());
            products_.insert(products_.end(), made[value].begin(), made[value].end());
            terms_.insert(terms_.end(), of[value].begin(), of[value].end());
            monomials_.push_back({number_[value], product, static_cast<int32_t>(products_.size()), term,
                                  static_cast<int32_t>(terms_.size())});
        }
    }

    static eqk::SymmetricKernel<float> kernel(float) { return eqk::active().symmetric->single_precision; }
    static eqk::SymmetricKernel<double> kernel(double) { return eqk::active().symmetric->double_precision; }

    Columns x_, z_;
    std::vector<eqk::SymmetricProduct> products_;
    std::vector<eqk::SymmetricTerm> terms_;
    std::vector<eqk::SymmetricMonomial> monomials_;
    std::vector<int32_t> number_;
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
