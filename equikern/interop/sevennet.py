"""SevenNet's interaction: gather, tensor product and sum at receivers in one op (`sevenn/nn/convolution.py`).

Recognised by structure. SevenNet's `edge_index` has receivers in row 0 and senders in row 1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from equikern.interop import e3nn
from equikern.interop.convolution import ConvolutionSwap
from equikern.interop.remembered import graph_of
from equikern.interop.swap import Swap, close, runs
from equikern.nn import RadialTable
from equikern.ops.engine import autocasts
from equikern.program import CONVOLUTION

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
GHOSTS, LOCAL, LENGTH = "x_ghost", "nlocal", "edge_length"


class Radial(nn.Module):
    """Lengths (E,) to weights (E, W): edge embedding, then radial network, as SevenNet applies them."""

    def __init__(self, embedding: Any, network: nn.Module) -> None:
        super().__init__()
        self.basis, self.cutoff, self.network = embedding.basis_function, embedding.cutoff_function, network

    def forward(self, r: Tensor) -> Tensor:
        return self.network(self.basis(r) * self.cutoff(r).unsqueeze(-1))  # type: ignore[no-any-return]


def radial_table(model: nn.Module, convolution: Any) -> RadialTable | None:
    """The table of a convolution's weights, if the model has one edge embedding that they depend on."""
    found = [m for m in model.modules() if hasattr(m, "basis_function") and hasattr(m, "cutoff_function")]
    if len(found) != 1 or convolution.key_weight_input != "edge_embedding":
        return None
    cutoff = found[0].cutoff_function
    r_max = getattr(cutoff, "r_cut", getattr(cutoff, "cutoff_length", None))
    return None if r_max is None else RadialTable(Radial(found[0], convolution.weight_nn), float(r_max))


def is_convolution(module: nn.Module) -> bool:
    """Whether a module has the structure of SevenNet's `IrrepsConvolution`."""
    return all(hasattr(module, name) for name in _STRUCTURE)


class InteractionSwap(ConvolutionSwap):
    """x_i <- sum over edges (j -> i) of w (x_j tensor y) / denominator, in SevenNet's dictionary of tensors."""

    def __call__(self, data: Any) -> Any:
        module: Any = self.module
        x, y, edge_index = data[module.key_x], data[module.key_filter], data[module.key_edge_idx]
        if (
            e3nn.watched(module.convolution)
            or not runs(self.program, x, y, data[module.key_weight_input])
            or autocasts(x)
        ):
            return self.own(data)
        if module.is_parallel:
            x = torch.cat([x, data[GHOSTS]])
        graph = graph_of(edge_index, x.shape[0], receivers_first=True)
        x = self.convolve(x, y, graph, data.get(LENGTH), lambda: module.weight_nn(data[module.key_weight_input]))
        x = x.div(module.denominator)
        if module.is_parallel:
            x = torch.tensor_split(x, data[LOCAL])[0]
        data[module.key_x] = x
        return data

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
        made = convolution_swap(self.module, None)
        if isinstance(made, InteractionSwap):
            made.table, made.tables = self.table, self.tables
        return made

    def constants(self) -> nn.Module:
        """See Swap."""
        return self.module.convolution  # type: ignore[return-value]


def convolution_swap(module: Any, model: nn.Module | None) -> Swap | str:
    """The stand-in for a module with `is_convolution` in a model, or the reason why it stays."""
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
    swap = InteractionSwap(module, program)
    swap.table = None if model is None else radial_table(model, module)
    return swap
