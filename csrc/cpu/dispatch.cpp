#include "dispatch.hpp"

#include <cstdlib>
#include <stdexcept>

namespace eqk {

#define EQK_DECLARE(target)                          \
    namespace target {                               \
    extern const ContractKernels contract_kernels;   \
    extern const GateKernels gate_kernels;           \
    extern const HarmonicsKernels harmonics_kernels; \
    extern const LinearKernels linear_kernels;       \
    extern const ModeKernels mode_kernels;           \
    extern const PainnKernels painn_kernels;         \
    extern const SplineKernels spline_kernels;       \
    extern const SymmetricKernels symmetric_kernels; \
    }

EQK_DECLARE(base)
#if defined(EQK_X86)
EQK_DECLARE(avx2)
EQK_DECLARE(avx512)
#endif

namespace {

const Implementation base_impl{"base",
                               [] { return true; },
                               &base::contract_kernels,
                               &base::gate_kernels,
                               &base::harmonics_kernels,
                               &base::linear_kernels,
                               &base::mode_kernels,
                               &base::painn_kernels,
                               &base::spline_kernels,
                               &base::symmetric_kernels};
#if defined(EQK_X86)
const Implementation avx2_impl{"avx2",
                               [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); },
                               &avx2::contract_kernels,
                               &avx2::gate_kernels,
                               &avx2::harmonics_kernels,
                               &avx2::linear_kernels,
                               &avx2::mode_kernels,
                               &avx2::painn_kernels,
                               &avx2::spline_kernels,
                               &avx2::symmetric_kernels};
const Implementation avx512_impl{"avx512",
                                 [] {
                                     return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                                            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
                                 },
                                 &avx512::contract_kernels,
                                 &avx512::gate_kernels,
                                 &avx512::harmonics_kernels,
                                 &avx512::linear_kernels,
                                 &avx512::mode_kernels,
                                 &avx512::painn_kernels,
                                 &avx512::spline_kernels,
                                 &avx512::symmetric_kernels};
#endif

const Implementation& choose() {
    const char* forced = std::getenv("EQUIKERN_CPU_TARGET");
    const std::string name = forced ? forced : "";
    std::string known;
    for (const Implementation* impl : implementations()) {
        known += known.empty() ? impl->name : std::string(", ") + impl->name;
        if (name.empty() ? impl->supported() : name == impl->name) {
            if (!impl->supported())
                throw std::runtime_error("EQUIKERN_CPU_TARGET=" + name +
                                         ": this machine cannot run these instructions");
            return *impl;
        }
    }
    throw std::runtime_error("EQUIKERN_CPU_TARGET=" + name + " is unknown; use one of: " + known);
}

}  // namespace

const std::vector<const Implementation*>& implementations() {
#if defined(EQK_X86)
    static const std::vector<const Implementation*> all{&avx512_impl, &avx2_impl, &base_impl};
#else
    static const std::vector<const Implementation*> all{&base_impl};
#endif
    return all;
}

const Implementation& active() {
    static const Implementation& chosen = choose();
    return chosen;
}

}  // namespace eqk
