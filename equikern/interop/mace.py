"""MACE's interaction blocks, radial embedding and symmetric contractions (`mace/modules/blocks.py` and beside it).

Recognised by structure. An interaction block runs its own forward; of what it calls, the tensor product with the sum at
receivers is one op, in the place where MACE calls its fused convolutions. MACE's `edge_index` has senders in row 0.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from equikern.errors import ProgramError
from equikern.interop import e3nn
from equikern.interop.convolution import ConvolutionSwap
from equikern.interop.remembered import graph_of
from equikern.interop.swap import Swap, close, runs, why_no_contraction
from equikern.nn import RadialTable
from equikern.ops.engine import autocasts
from equikern.ops.symmetric_contraction import symmetric_contraction
from equikern.program import CONVOLUTION
from equikern.program.symmetric import Symmetric, symmetric, tensor_rows

_INTERACTION = ("linear_up", "conv_tp", "conv_tp_weights", "irreps_out", "edge_attrs_irreps", "avg_num_neighbors")
_EMBEDDING = ("bessel_fn", "cutoff_fn", "out_dim")
_CONTRACTION = ("irreps_in", "irreps_out", "contractions", "shared_weights")
LENGTHS = "_equikern_lengths"  # attribute of edge features: the lengths (E, 1) that they are functions of


def is_interaction(module: nn.Module) -> bool:
    """Whether a module has the structure of MACE's `InteractionBlock`."""
    return all(hasattr(module, name) for name in _INTERACTION)


def is_embedding(module: nn.Module) -> bool:
    """Whether a module has the structure of MACE's `RadialEmbeddingBlock`."""
    return all(hasattr(module, name) for name in _EMBEDDING)


def is_contraction(module: nn.Module) -> bool:
    """Whether a module has the structure of MACE's `SymmetricContraction`."""
    return all(hasattr(module, name) for name in _CONTRACTION)


# --- radial embedding


class EmbeddingSwap(Swap):
    """The block's own forward, whose edge features remember their lengths for the interactions' tables."""

    def __call__(
        self, edge_lengths: Tensor, node_attrs: Tensor, edge_index: Tensor, atomic_numbers: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        features, cutoff = self.own(edge_lengths, node_attrs, edge_index, atomic_numbers)
        setattr(features, LENGTHS, edge_lengths)
        return features, cutoff

    def agrees(self) -> bool:
        """See Swap."""
        return True


def embedding_swap(module: Any) -> Swap | str:
    """The stand-in for a module with `is_embedding`, or the reason why it stays."""
    if e3nn.arguments(module) != ["edge_lengths", "node_attrs", "edge_index", "atomic_numbers"]:
        return f"its forward takes ({', '.join(e3nn.arguments(module))})"
    if hasattr(module, "distance_transform"):
        return "its distances are transformed by species: weights are no function of the length alone"
    return EmbeddingSwap(module)


class Radial(nn.Module):
    """Lengths (E,) to weights (E, W): radial embedding, network and, if it is apart, cutoff, as MACE applies them."""

    def __init__(self, embedding: nn.Module, network: nn.Module) -> None:
        super().__init__()
        self.embedding, self.network = embedding, network

    def forward(self, r: Tensor) -> Tensor:
        features, cutoff = self.embedding(r.unsqueeze(-1), r, r, r)
        weights = self.network(features)
        return weights if cutoff is None else weights * cutoff  # type: ignore[no-any-return]


def radial_table(model: nn.Module, interaction: Any) -> RadialTable | None:
    """The table of an interaction's weights, if the model has one embedding and weights depend on the length alone."""
    found: list[Any] = [m for m in model.modules() if is_embedding(m)]
    if len(found) != 1 or isinstance(embedding_swap(found[0]), str) or not hasattr(found[0].cutoff_fn, "r_max"):
        return None
    return RadialTable(Radial(found[0], interaction.conv_tp_weights), float(found[0].cutoff_fn.r_max))


# --- interaction


class _Weights:
    """The weights of a convolution, computed when they are needed: network(features), times a factor."""

    def __init__(self, network: nn.Module, features: Tensor, factor: Tensor | None = None) -> None:
        self.network, self.features, self.factor = network, features, factor

    def __mul__(self, factor: Tensor) -> _Weights:
        return _Weights(self.network, self.features, factor if self.factor is None else self.factor * factor)

    def value(self) -> Tensor:
        """(E, W)."""
        weights = self.network(self.features)
        return weights if self.factor is None else weights * self.factor  # type: ignore[no-any-return]

    @property
    def lengths(self) -> Tensor | None:
        """(E,), or None where they are not known."""
        found = getattr(self.features, LENGTHS, None)
        return None if found is None else found.view(-1)


class _View:
    """A module as its own forward sees it, but for some attributes."""

    def __init__(self, module: nn.Module, **replaced: Any) -> None:
        self.__dict__.update(replaced, _module=module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


class InteractionSwap(ConvolutionSwap):
    """The block's own forward with a convolution in one op: node features, harmonics, weights, edges -> messages."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        module: Any = self.module
        if any(map(e3nn.watched, (module.conv_tp, module.conv_tp_weights))):
            return self.own(*args, **kwargs)
        view = _View(module, conv_fusion=True, conv_tp=self._messages, conv_tp_weights=self._weights)
        return type(module).forward(view, *args, **kwargs)

    def _weights(self, features: Tensor) -> _Weights:
        return _Weights(self.module.conv_tp_weights, features)  # type: ignore[arg-type]

    def _messages(self, x: Tensor, y: Tensor, weights: _Weights, edge_index: Tensor) -> Tensor:
        if not runs(self.program, x, y, weights.features) or autocasts(x):
            each = self.module.conv_tp(x[edge_index[0]], y, weights.value())  # type: ignore[operator]
            return x.new_zeros(x.shape[0], each.shape[1], dtype=each.dtype).index_add(0, edge_index[1], each)
        return self.convolve(x, y, graph_of(edge_index, x.shape[0]), weights.lengths, weights.value)

    def covers(self) -> list[nn.Module]:
        """See Swap. Linear maps have stand-ins of their own."""
        module: Any = self.module
        return [module, *module.conv_tp.modules(), *module.conv_tp_weights.modules()]

    def agrees(self) -> bool:
        """See Swap. The graph has three nodes and four edges."""
        module: Any = self.module
        like = next(module.conv_tp_weights.parameters())
        generator = torch.Generator().manual_seed(0)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64).to(like)

        species = torch.tensor([0, -1, 0])
        data = {
            "node_attrs": torch.eye(module.node_attrs_irreps.dim).to(like)[species],
            "node_feats": draw(3, module.node_feats_irreps.dim),
            "edge_attrs": draw(4, module.edge_attrs_irreps.dim),
            "edge_feats": draw(4, module.edge_feats_irreps.dim),
            "edge_index": torch.tensor([[0, 0, 2, 1], [1, 2, 0, 1]], device=like.device),
        }
        flat = lambda found: torch.cat([t.flatten(1) for t in found if t is not None], 1)  # noqa: E731
        return close(lambda: flat(self.own(**data)), lambda: flat(self(**data)))

    def rebuild(self) -> Swap | str:
        """See Swap."""
        made = interaction_swap(self.module, None)
        if isinstance(made, InteractionSwap):
            made.table, made.tables = self.table, self.tables
        return made

    def constants(self) -> nn.Module:
        """See Swap."""
        return self.module.conv_tp  # type: ignore[return-value]


def interaction_swap(module: Any, model: nn.Module | None) -> Swap | str:
    """The stand-in for a module with `is_interaction` in a model, or the reason why it stays."""
    product = module.conv_tp
    if hasattr(module, "conv_fusion") or not e3nn.is_product(product):
        return f"its product is a {type(product).__name__} of another library, not e3nn's TensorProduct"
    if e3nn.arguments(product) != ["x", "y", "weight"]:
        return f"its product takes ({', '.join(e3nn.arguments(product))}), not (x, y, weight)"
    if product.shared_weights or not product.weight_numel:
        return "its product has no weights of its own for each edge"
    program = e3nn.product_program(product, CONVOLUTION)
    if isinstance(program, str):
        return program
    swap = InteractionSwap(module, program)
    swap.table = None if model is None else radial_table(model, module)
    return swap


# --- symmetric contraction


class _Terms(torch.autograd.Function):
    """Weights of monomials that were made before of those of polynomials, on the graph of the latter."""

    @staticmethod
    def forward(ctx: Any, made: Tensor, matrix: Tensor, *weights: Tensor) -> Tensor:
        ctx.matrix, ctx.sizes = matrix, [w.shape[1] for w in weights]
        return made.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(ctx.matrix.t() @ grad).split(ctx.sizes, 1)


class ContractionSwap(Swap):
    """Polynomials of node features (N, C, D) with weights of the species that one-hot attributes (N, Z) name."""

    polynomials: Symmetric
    matrix: Tensor  # (terms, polynomials) float64
    cast: Tensor | None = None  # the matrix where the weights are
    made: Tensor | None = None
    made_of: tuple[Tensor, ...] = ()

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        species = None if e3nn.values_hidden() else e3nn.species_of(y)
        if species is None or self.why_not(x.device.type, x.dtype) is not None or x.dtype != y.dtype:
            return self.own(x, y)  # type: ignore[no-any-return]
        if self._weights()[0].dtype != x.dtype or autocasts(x):
            return self.own(x, y)  # type: ignore[no-any-return]
        return symmetric_contraction(self.polynomials, x.flatten(1), self._terms(), species)

    def _terms(self) -> Tensor:
        """(Z, terms, C): weights of monomials. On the CPU they are made again when a weight has another value; on a
        device, where to compare would wait for it, they always are.
        """
        weights = self._weights()
        if self.cast is None or self.cast.dtype != weights[0].dtype or self.cast.device != weights[0].device:
            self.cast = self.matrix.to(weights[0])
        if not weights[0].is_cpu:
            return self.cast @ torch.cat(weights, 1)
        known = len(self.made_of) == len(weights)
        if not known or not all(
            a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(weights, self.made_of, strict=True)
        ):
            self.made_of = tuple(w.detach().clone() for w in weights)
            self.made = self.cast @ torch.cat(self.made_of, 1)
        assert self.made is not None
        if torch.is_grad_enabled() and any(w.requires_grad for w in weights):
            return _Terms.apply(self.made, self.cast, *weights)  # type: ignore[no-any-return]
        return self.made

    def _weights(self) -> list[Tensor]:
        """For each irrep of the output, the weights (Z, polynomials, C) of degree 1 ... correlation."""
        contractions: Any = self.module.contractions
        return [w for c in contractions for w in (*reversed(list(c.weights)), c.weights_max)]

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"cast": None, "made": None, "made_of": ()}

    def why_not(self, device: str, dtype: torch.dtype) -> str | None:
        """See Swap."""
        return why_no_contraction(device, dtype)

    def agrees(self) -> bool:
        """See Swap."""
        weight = self._weights()[0]
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(2, weight.shape[2], self.polynomials.components, generator=generator, dtype=torch.float64)
        y = torch.eye(weight.shape[0]).to(weight)[[0, -1]]
        return close(lambda: self.own(x.to(weight), y), lambda: self(x.to(weight), y))

    def rebuild(self) -> Swap | str:
        """See Swap."""
        return contraction_swap(self.module)

    def constants(self) -> nn.Module:
        """See Swap."""
        return self.module


def contraction_swap(module: Any) -> Swap | str:
    """The stand-in for a module with `is_contraction`, or the reason why it stays."""
    if e3nn.arguments(module) != ["x", "y"]:
        return f"its forward takes ({', '.join(e3nn.arguments(module))}), not (x, y)"
    try:
        x, z = ([(mul, (ir.l, ir.p)) for mul, ir in each] for each in (module.irreps_in, module.irreps_out))
        correlations = {int(each.correlation) for each in module.contractions}
        polynomials = symmetric(x, z, max(correlations), layout_x="channels")
    except (ProgramError, ValueError, AttributeError) as error:
        return f"it is no symmetric contraction: {error}"
    columns = []
    for entry, (each, (_, ir)) in enumerate(zip(module.contractions, polynomials.irreps_z, strict=True)):
        for degree in range(1, int(each.correlation) + 1):
            tensor = each.U_tensors(degree).detach().double().cpu().numpy()
            shape = (ir.dim, *(polynomials.components,) * degree, tensor.shape[-1])
            if tensor.size != prod(shape):
                return f"its coupling tensor of degree {degree} has shape {tensor.shape}, not {shape}"
            rows = tensor_rows(polynomials, entry, tensor.reshape(shape))
            if rows is None:
                return f"coefficients are not equivariant: degree {degree} into {ir}"
            columns.append(rows)
    swap = ContractionSwap(module)
    swap.polynomials, swap.matrix = polynomials, torch.from_numpy(np.concatenate(columns, 1))
    return swap
