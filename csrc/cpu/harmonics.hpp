// The spherical harmonics: kernels for one instruction set.
#pragma once

namespace eqk {

struct HarmonicsKernels {};

}  // namespace eqk
