"""What several models share: checks of their inputs, irreps and paths, the radial network, norms of features."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from equikern.errors import EquikernError, ShapeError
from equikern.graph import Graph
from equikern.nn import GAINS, MLP
from equikern.ops import radial, radial_embedding
from equikern.ops.gate import Part, gate, gate_spec
from equikern.program import Irreps

PARITIES = ("natural", "full", "none")
Instructions = list[tuple[Any, ...]]


def check_parity(config: Any) -> None:
    """Raise EquikernError unless `config` has a parity that is known and a degree lmax >= 0."""
    name = type(config).__name__
    if config.parity not in PARITIES:
        raise EquikernError(f"{name}: unknown parity {config.parity!r}; use one of {', '.join(PARITIES)}.")
    if not isinstance(config.lmax, int) or config.lmax < 0:
        raise EquikernError(f"{name}: lmax is an integer >= 0; got {config.lmax!r}.")


def inputs(species: Tensor, edge_vec: Tensor, edge_index: Tensor, graph: Graph | None, num_species: int) -> Graph:
    """The graph of a model's inputs; raises ShapeError where they do not fit one another."""
    if species.ndim != 1 or species.dtype not in (torch.int32, torch.int64):
        raise ShapeError(f"species are integers (N,); got {tuple(species.shape)} {species.dtype}.")
    graph = Graph.of(edge_index, species.shape[0], graph)
    graph.check_species(species, num_species)
    if edge_vec.shape != (graph.num_edges, 3):
        raise ShapeError(f"edge_vec has shape {tuple(edge_vec.shape)}; edge_index reads ({graph.num_edges}, 3).")
    return graph


def xavier(model: nn.Module) -> None:
    """Xavier uniform weights and zero biases in all linear layers."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def features(channels: int, lmax: int, parity: str) -> Irreps:
    """So many channels of each degree up to lmax.

    parity: "natural", (-1)^l of degree l; "full", both parities of each degree; "none", all even: inversion is ignored.
    """
    signs = {"natural": lambda l: [(-1) ** l], "full": lambda l: [1, -1], "none": lambda l: [1]}[parity]  # noqa: E741
    return Irreps([(channels, (l, p)) for l in range(lmax + 1) for p in signs(l)])  # noqa: E741


def harmonics(lmax: int, parity: str) -> Irreps:
    """One channel of each degree: what the harmonics of an edge are to features of that parity."""
    return Irreps([(1, (l, 1 if parity == "none" else (-1) ** l)) for l in range(lmax + 1)])  # noqa: E741


def reachable(irreps_x: Irreps, irreps_y: Irreps, wanted: Irreps) -> Irreps:
    """The entries of `wanted` that some path of x and y leads to."""
    found = {ir for _, ir_x in irreps_x for _, ir_y in irreps_y for ir in ir_x * ir_y}
    return Irreps([(mul, ir) for mul, ir in wanted if ir in found])


def fully_connected(irreps_x: Irreps, irreps_y: Irreps, irreps_z: Irreps) -> Instructions:
    """Every path `uvw` of x and y to the entries of z."""
    places = ((i, j, k) for i in range(len(irreps_x)) for j in range(len(irreps_y)) for k in range(len(irreps_z)))
    return [(i, j, k, "uvw", True) for i, j, k in places if irreps_z[k].ir in irreps_x[i].ir * irreps_y[j].ir]


class RadialNetwork(nn.Module):
    """Weights of paths: an MLP of Bessel functions times a cutoff, (E,) lengths -> (E, width).

    The polynomial cutoff (p = 6) multiplies last, so that the weights vanish at `cutoff` with two derivatives.
    """

    def __init__(self, num_basis: int, hidden: int, width: int, cutoff: float) -> None:
        super().__init__()
        self.num_basis, self.cutoff = num_basis, cutoff
        self.net = MLP((num_basis, hidden, hidden, width), gain=GAINS["silu"])

    def forward(self, r: Tensor) -> Tensor:
        """r (E,) -> (E, width)."""
        basis = radial_embedding(r, self.num_basis, self.cutoff, prefactor="nequip", cutoff="none")
        return self.net(basis) * radial.polynomial_cutoff(r, self.cutoff).unsqueeze(1)  # type: ignore[no-any-return]


def norms(irreps: Irreps, x: Tensor, epsilon: float) -> Tensor:
    """sqrt(|x_c|^2 + epsilon) of every channel c of x (N, irreps.dim): (N, channels); smooth at zero."""
    parts = [
        x[:, columns].unflatten(1, (mul, ir.dim)).square().sum(2)
        for (mul, ir), columns in zip(irreps, irreps.slices(), strict=True)
    ]
    return (torch.cat(parts, 1) + epsilon).sqrt() if parts else x.new_zeros(x.shape[0], 0)


def scaled(irreps: Irreps, x: Tensor, factors: Tensor, act: str = "identity") -> Tensor:
    """act(factors) (N, channels), one factor a channel, times x (N, irreps.dim)."""
    channel, column, parts = 0, irreps.num_irreps, []
    for mul, ir in irreps:
        parts.append(Part(channel, mul, act, gated=column, dim=ir.dim))
        channel, column = channel + mul, column + mul * ir.dim
    return gate(gate_spec(column, tuple(parts)), torch.cat([factors, x], 1)) if parts else x
