// The channelwise contraction: kernels for one instruction set.
#pragma once

namespace eqk {

struct ContractKernels {};

}  // namespace eqk
