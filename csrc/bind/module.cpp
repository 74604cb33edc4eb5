// The only file that knows Python: pointers and sizes in, exceptions out.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "../cpu/dispatch.hpp"

namespace py = pybind11;

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
}
