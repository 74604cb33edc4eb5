"""SchNet: continuous-filter convolutions.

Source: K. T. Schütt, P.-J. Kindermans, H. E. Sauceda, S. Chmiela, A. Tkatchenko, K.-R. Müller, "SchNet: a
continuous-filter convolutional neural network for modeling quantum interactions", NIPS 2017, in the form of
torch_geometric, whose models `interop.torch_geometric` reads. Initialisation as there: Xavier uniform, zero bias.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log

import torch
from torch import Tensor, nn

from equikern.errors import EquikernError
from equikern.graph import Graph
from equikern.models._checks import check_sizes
from equikern.models._parts import inputs, xavier
from equikern.nn import RadialConvolution
from equikern.ops import radial


@dataclass(frozen=True)
class SchNetConfig:
    """Sizes of a SchNet; torch_geometric's by default.

    cutoff: in the unit of the edge vectors. channels: of an atom; filters: of a message. num_basis: Gaussians, centred
    at linspace(0, cutoff, num_basis); width: theirs, the spacing of the centres if it is None.
    """

    layers: int = 6
    channels: int = 128
    filters: int = 128
    num_basis: int = 50
    num_species: int = 100
    cutoff: float = 10.0
    width: float | None = None

    def __post_init__(self) -> None:
        check_sizes(self, ("layers", "channels", "filters", "num_basis", "num_species"))
        if self.num_basis < 2 or self.channels < 2:
            raise EquikernError(f"SchNetConfig: channels and num_basis are at least 2; got {self}.")
        if self.width is not None:
            check_sizes(self, (), ("width",))

    @property
    def gaussian_width(self) -> float:
        """Of the Gaussians."""
        return self.cutoff / (self.num_basis - 1) if self.width is None else self.width


class ShiftedSoftplus(nn.Module):
    """ssp(x) = log(1 + exp(x)) - log 2."""

    def forward(self, x: Tensor) -> Tensor:
        """Element by element."""
        return nn.functional.softplus(x) - log(2)


class Filter(nn.Module):
    """W(d) = fc(d) (ssp(g(d) A1 + b1) A2 + b2), lengths (E,) to filters (E, F), zero from the cutoff on."""

    def __init__(self, config: SchNetConfig) -> None:
        super().__init__()
        self.cutoff, self.width = config.cutoff, config.gaussian_width
        self.centres: Tensor
        self.register_buffer("centres", torch.linspace(0, config.cutoff, config.num_basis))
        self.network = nn.Sequential(
            nn.Linear(config.num_basis, config.filters), ShiftedSoftplus(), nn.Linear(config.filters, config.filters)
        )

    def forward(self, d: Tensor) -> Tensor:
        """d (E,) -> (E, F)."""
        basis = torch.exp(-0.5 * ((d.unsqueeze(1) - self.centres) / self.width) ** 2)  # (E, K)
        return radial.cosine_cutoff(d, self.cutoff).unsqueeze(1) * self.network(basis)  # type: ignore[no-any-return]


class Interaction(nn.Module):
    """v_i = ssp([sum over edges (j -> i) of (h_j P) W(d)] Q + q) S + s."""

    def __init__(self, config: SchNetConfig) -> None:
        super().__init__()
        c, f = config.channels, config.filters
        self.inner = nn.Linear(c, f, bias=False)
        self.convolution = RadialConvolution(
            f"{f}x0e", "0e", f"{f}x0e", [(0, 0, 0, "uvu", True)], radial=Filter(config), r_max=config.cutoff
        )
        self.outer = nn.Sequential(nn.Linear(f, c), ShiftedSoftplus(), nn.Linear(c, c))

    def forward(self, h: Tensor, edge_vec: Tensor, edge_index: Tensor, graph: Graph) -> Tensor:
        """h (N, C) -> v (N, C)."""
        return self.outer(self.convolution(self.inner(h), edge_vec, edge_index, graph=graph))  # type: ignore[no-any-return]


class SchNet(nn.Module):
    """Atomic energies of SchNet: invariant to rotations and mirrors, of distances alone.

    In float32 the filters are read from tables where that is quicker (`nn.RadialConvolution`): their networks then run
    for no edge. Atoms on one place have a finite energy, and no force on one another.
    """

    def __init__(self, config: SchNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or SchNetConfig()
        c = config.channels
        self.embedding = nn.Embedding(config.num_species, c)
        self.layers = nn.ModuleList([Interaction(config) for _ in range(config.layers)])
        self.readout = nn.Sequential(nn.Linear(c, c // 2), ShiftedSoftplus(), nn.Linear(c // 2, 1))
        xavier(self)

    def forward(self, species: Tensor, edge_vec: Tensor, edge_index: Tensor, graph: Graph | None = None) -> Tensor:
        """Atomic energies (N,): species (N,) indexes the embedding, edge_vec (E, 3), edge_index (2, E).

        edge_vec is position[sender] + shifts @ cell - position[receiver]; edge_index holds senders, receivers.
        """
        graph = inputs(species, edge_vec, edge_index, graph, self.config.num_species)
        h = self.embedding(species)  # (N, C)
        for layer in self.layers:
            h = h + layer(h, edge_vec, edge_index, graph)
        return self.readout(h).squeeze(1)  # type: ignore[no-any-return]
