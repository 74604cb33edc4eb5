"""SevenNet's interaction: gather, tensor product and sum at receivers in one op (`sevenn/nn/convolution.py`).

Recognised by structure. SevenNet's `edge_index` has receivers in row 0 and senders in row 1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from equikern.graph import Graph
from equikern.interop import e3nn
from equikern.interop.swap import Swap, close, runs
from equikern.ops import evaluate
from equikern.program import CONVOLUTION, Program

_STRUCTURE = (
    "convolution",
    "weight_nn",
    "denominator",
    "key_x",
    "key_filter",
    "key_weight_input",
    "key_edge_idx",
    "is_parallel",
)
GHOSTS, LOCAL = "x_ghost", "nlocal"


def is_convolution(module: nn.Module) -> bool:
    """Whether a module has the structure of SevenNet's `IrrepsConvolution`."""
    return all(hasattr(module, name) for name in _STRUCTURE)


class ConvolutionSwap(Swap):
    """x_i <- sum over edges (j -> i) of w (x_j tensor y) / denominator, in SevenNet's dictionary of tensors."""

    program: Program

    def __call__(self, data: Any) -> Any:
        module: Any = self.module
        x, y, edge_index = data[module.key_x], data[module.key_filter], data[module.key_edge_idx]
        if (
            self._watched()
            or not runs(self.program, x, y, data[module.key_weight_input])
            or torch.is_autocast_enabled(x.device.type)
        ):
            return self.own(data)
        weight = module.weight_nn(data[module.key_weight_input])
        if module.is_parallel:
            x = torch.cat([x, data[GHOSTS]])
        graph = Graph(edge_index.flip(0), x.shape[0])
        x = evaluate(self.program, (x, y, weight), graph.index, graph.num_nodes).div(module.denominator)
        if module.is_parallel:
            x = torch.tensor_split(x, data[LOCAL])[0]
        data[module.key_x] = x
        return data

    def _watched(self) -> bool:
        """Whether somebody's hooks want to see the product by itself."""
        product = self.module.convolution
        return bool(product._forward_hooks or product._forward_pre_hooks or product._backward_hooks)  # type: ignore[union-attr]

    def agrees(self) -> bool:
        """See Swap. The graph has three nodes and four edges."""
        module: Any = self.module
        like = next(module.weight_nn.parameters())
        generator = torch.Generator().manual_seed(0)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64).to(like)

        inputs = module.weight_nn.hs[0] if hasattr(module.weight_nn, "hs") else like.shape[-1]
        data = {
            module.key_x: draw(3, module.convolution.irreps_in1.dim),
            module.key_filter: draw(4, module.convolution.irreps_in2.dim),
            module.key_weight_input: draw(4, inputs),
            module.key_edge_idx: torch.tensor([[0, 0, 2, 1], [1, 2, 0, 1]], device=like.device),
            GHOSTS: draw(2, module.convolution.irreps_in1.dim),
            LOCAL: torch.tensor([3]),
        }
        return close(lambda: self.own(dict(data))[module.key_x], lambda: self(dict(data))[module.key_x])

    def rebuild(self) -> Swap | str:
        """See Swap."""
        return convolution_swap(self.module)

    def constants(self) -> nn.Module:
        """See Swap."""
        return self.module.convolution  # type: ignore[return-value]


def convolution_swap(module: Any) -> Swap | str:
    """The stand-in for a module with `is_convolution`, or the reason why it stays."""
    product = module.convolution
    if product is None or module.weight_nn is None:
        return "it is not instantiated yet"
    if not e3nn.is_product(product):
        return f"its product is a {type(product).__name__}, not e3nn's TensorProduct"
    if len(e3nn.arguments(module)) != 1 or e3nn.arguments(product) != ["x", "y", "weight"]:
        return f"its forward takes ({', '.join(e3nn.arguments(module))}), not (data)"
    if product.shared_weights or not product.weight_numel:
        return "its product has no weights of its own for each edge"
    program = e3nn.product_program(product, CONVOLUTION)
    if isinstance(program, str):
        return program
    return ConvolutionSwap(module, program)
