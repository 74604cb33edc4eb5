#include "contract.hpp"

namespace eqk {
namespace EQK_TARGET {

extern const ContractKernels contract_kernels;
const ContractKernels contract_kernels{};

}  // namespace EQK_TARGET
}  // namespace eqk
