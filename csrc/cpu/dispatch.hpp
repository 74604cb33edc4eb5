// The instruction sets this build knows, and the choice among them, made once on first use.
#pragma once

#include <string>
#include <vector>

#include "contract.hpp"
#include "gate.hpp"
#include "harmonics.hpp"
#include "linear.hpp"
#include "modes.hpp"
#include "painn.hpp"
#include "spline.hpp"
#include "symmetric.hpp"

namespace eqk {

// One instruction set: its name, whether this machine can run it, and its kernels.
struct Implementation {
    const char* name;
    bool (*supported)();
    const ContractKernels* contract;
    const GateKernels* gate;
    const HarmonicsKernels* harmonics;
    const LinearKernels* linear;
    const ModeKernels* modes;
    const PainnKernels* painn;
    const SplineKernels* spline;
    const SymmetricKernels* symmetric;
};

// Best first.
const std::vector<const Implementation*>& implementations();

// The implementation in use: the one EQUIKERN_CPU_TARGET names, or the best this machine supports. Throws on an unknown
// name.
const Implementation& active();

}  // namespace eqk
