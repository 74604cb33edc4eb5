"""What several models share: checks of their sizes, irreps and paths, the radial network, norms of features."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, sqrt
from typing import Any

import torch
from torch import Tensor, nn

from equikern.errors import EquikernError, ProgramError, ShapeError
from equikern.graph import Graph
from equikern.ops import radial
from equikern.ops.gate import Part, gate, gate_spec
from equikern.program import Irreps

PARITIES = ("natural", "full", "none")
Instructions = list[tuple[Any, ...]]


def check_sizes(config: Any, integers: Sequence[str], positive: Sequence[str] = ("cutoff",)) -> None:
    """Raise EquikernError unless the fields are integers >= 1, and finite numbers above 0."""
    name = type(config).__name__
    for field in integers:
        value = getattr(config, field)
        if not isinstance(value, int) or value < 1:
            raise EquikernError(f"{name}: {field} is an integer >= 1; got {value!r}.")
    for field in positive:
        value = getattr(config, field)
        if not (isfinite(value) and value > 0):
            raise EquikernError(f"{name}: {field} is finite and above 0; got {value!r}.")


def check_parity(config: Any) -> None:
    """Raise EquikernError unless `config` has a parity that is known and a degree l_max >= 0."""
    name = type(config).__name__
    if config.parity not in PARITIES:
        raise EquikernError(f"{name}: unknown parity {config.parity!r}; use one of {', '.join(PARITIES)}.")
    if not isinstance(config.l_max, int) or config.l_max < 0:
        raise EquikernError(f"{name}: l_max is an integer >= 0; got {config.l_max!r}.")


def inputs(species: Tensor, edge_vec: Tensor, edge_index: Tensor, graph: Graph | None) -> Graph:
    """The graph of a model's inputs; raises ShapeError where they do not fit one another."""
    if species.ndim != 1:
        raise ShapeError(f"species have shape {tuple(species.shape)}; they are integers, (N,).")
    if graph is None:
        graph = Graph(edge_index, species.shape[0])
    else:
        graph.check(edge_index, species.shape[0])
    if edge_vec.shape != (graph.num_edges, 3):
        raise ShapeError(f"edge_vec has shape {tuple(edge_vec.shape)}; edge_index reads ({graph.num_edges}, 3).")
    return graph


def features(channels: int, l_max: int, parity: str) -> Irreps:
    """So many channels of each degree up to l_max.

    parity: "natural", (-1)^l of degree l; "full", both parities of each degree; "none", all even: inversion is ignored.
    """
    signs = {"natural": lambda l: [(-1) ** l], "full": lambda l: [1, -1], "none": lambda l: [1]}[parity]  # noqa: E741
    return Irreps([(channels, (l, p)) for l in range(l_max + 1) for p in signs(l)])  # noqa: E741


def harmonics(l_max: int, parity: str) -> Irreps:
    """One channel of each degree: what the harmonics of an edge are to features of that parity."""
    return Irreps([(1, (l, 1 if parity == "none" else (-1) ** l)) for l in range(l_max + 1)])  # noqa: E741


def reachable(irreps_x: Irreps, irreps_y: Irreps, wanted: Irreps) -> Irreps:
    """The entries of `wanted` that some path of x and y leads to."""
    found = {ir for _, ir_x in irreps_x for _, ir_y in irreps_y for ir in ir_x * ir_y}
    return Irreps([(mul, ir) for mul, ir in wanted if ir in found])


def channelwise(irreps_x: Irreps, irreps_y: Irreps, wanted: Irreps) -> tuple[Irreps, Instructions]:
    """(output irreps, instructions): every path `uvu` of x and y to an irrep of `wanted`, each to its own entry."""
    out: list[Any] = []
    instructions: Instructions = []
    for i, (mul, ir_x) in enumerate(irreps_x):
        for j, (_, ir_y) in enumerate(irreps_y):
            for ir in ir_x * ir_y:
                if ir in wanted:
                    instructions.append((i, j, len(out), "uvu", True))
                    out.append((mul, ir))
    if not out:
        raise ProgramError(f"no path leads from {irreps_x} and {irreps_y} to {wanted}.")
    return Irreps(out), instructions


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
        self.net = nn.Sequential(
            nn.Linear(num_basis, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, width)
        )
        for module in self.net:
            if isinstance(module, nn.Linear):
                # Weights of variance about 1, as products expect; 1.68 makes up for SiLU.
                nn.init.normal_(module.weight, std=1.68 / sqrt(module.in_features))
                nn.init.zeros_(module.bias)

    def forward(self, r: Tensor) -> Tensor:
        """r (E,) -> (E, width)."""
        basis = radial.bessel(r, self.num_basis, self.cutoff)
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
