#include "harmonics.hpp"

namespace eqk {
namespace EQK_TARGET {

extern const HarmonicsKernels harmonics_kernels;
const HarmonicsKernels harmonics_kernels{};

}  // namespace EQK_TARGET
}  // namespace eqk
