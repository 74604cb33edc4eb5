"""Tensor field network.

Source: N. Thomas, T. Smidt, S. Kearnes, L. Yang, L. Li, K. Kohlhoff, P. Riley, "Tensor field networks", 2018
(arXiv:1802.08219). The pair of an atom with itself, which the paper's sums include, is the linear map `keep`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor, nn

from equikern.graph import Graph
from equikern.models._checks import check_sizes
from equikern.models._parts import (
    RadialNetwork,
    check_parity,
    features,
    harmonics,
    inputs,
    norms,
    reachable,
    scaled,
)
from equikern.nn import RadialConvolution
from equikern.o3 import Linear
from equikern.ops import radial, spherical_harmonics
from equikern.ops.gate import ACTIVATIONS
from equikern.program import Irrep, Irreps, channelwise


@dataclass(frozen=True)
class TFNConfig:
    """Sizes of a tensor field network.

    cutoff in the unit of the edge vectors; lmax, the highest degree of features and of harmonics; channels of each
    irrep; parity: "natural" keeps 0e, 1o, 2e, ..., "full" both parities of each degree, "none" ignores inversion as
    the paper does, and so tells mirror images apart; num_basis and hidden, the radial network's widths;
    avg_num_neighbors: sums over neighbours are divided by its square root; epsilon smooths norms at zero.
    """

    cutoff: float = 5.0
    num_species: int = 100
    layers: int = 3
    channels: int = 32
    lmax: int = 2
    parity: str = "natural"
    num_basis: int = 8
    hidden: int = 32
    avg_num_neighbors: float = 16.0
    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        check_sizes(
            self,
            ("num_species", "layers", "channels", "num_basis", "hidden"),
            ("cutoff", "avg_num_neighbors", "epsilon"),
        )
        check_parity(self)


class NormActivation(nn.Module):
    """ssp(x + b) of scalars 0e, ssp(|x| + b) x of each other channel: the paper's eta, with its bias b."""

    def __init__(self, irreps: Irreps, epsilon: float) -> None:
        super().__init__()
        scalars = irreps.count(Irrep("0e"))
        # Scalars come first in `features`.
        self.scalars, self.others = scalars, Irreps([e for e in irreps if e.ir != Irrep("0e")])
        self.epsilon = epsilon
        # ssp(0) = 0 would square small features: the norms' biases start at 1.
        self.bias = nn.Parameter((torch.arange(irreps.num_irreps) >= scalars).float())

    def forward(self, x: Tensor) -> Tensor:
        """x (N, irreps.dim) -> (N, irreps.dim)."""
        n = self.scalars
        s = ACTIVATIONS["ssp"](0, x[:, :n] + self.bias[:n])
        if not self.others:
            return s
        t = x[:, n:]
        return torch.cat([s, scaled(self.others, t, norms(self.others, t, self.epsilon) + self.bias[n:], "ssp")], 1)


class Layer(nn.Module):
    """Convolution, self-interaction and non-linearity."""

    def __init__(self, irreps_in: Irreps, irreps_out: Irreps, config: TFNConfig) -> None:
        super().__init__()
        irreps_y = harmonics(config.lmax, config.parity)
        self.irreps_out = reachable(irreps_in, irreps_y, irreps_out)
        messages, instructions = channelwise(irreps_in, irreps_y, self.irreps_out)
        weights = sum(irreps_in[i].mul for i, *_ in instructions)
        network = RadialNetwork(config.num_basis, config.hidden, weights, config.cutoff)
        self.convolution = RadialConvolution(
            irreps_in, irreps_y, messages, instructions, radial=network, r_max=config.cutoff
        )
        self.mix = Linear(messages, self.irreps_out)
        self.keep = Linear(irreps_in, self.irreps_out)
        self.activation = NormActivation(self.irreps_out, config.epsilon)
        self.scale = 1 / sqrt(config.avg_num_neighbors)

    def forward(self, x: Tensor, r: Tensor, y: Tensor, graph: Graph) -> Tensor:
        """x (N, irreps_in.dim), lengths r (E,), harmonics y (E, Y) -> (N, irreps_out.dim)."""
        m = self.convolution.convolve(x, r, y, graph) * self.scale
        return self.activation(self.mix(m) + self.keep(x))  # type: ignore[no-any-return]


class TFN(nn.Module):
    """Atomic energies of a tensor field network, invariant under O(3) (SO(3) with parity "none").

    Twice differentiable in edge_vec, at the cutoff too; a vector of length zero has no direction (harmonics of degree
    l > 0 vanish). An atom without neighbours has the energy of its species.

    >>> model = TFN(TFNConfig(layers=2, channels=4))
    >>> edges = torch.tensor([[0, 1], [1, 0]])
    >>> vec = torch.tensor([[0.0, 0.0, 1.1], [0.0, 0.0, -1.1]])
    >>> model(torch.tensor([6, 8]), vec, edges).shape
    torch.Size([2])
    """

    def __init__(self, config: TFNConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or TFNConfig()
        c = config.channels
        self.embedding = nn.Embedding(config.num_species, c)
        irreps = scalars = Irreps(f"{c}x0e")
        layers = []
        for n in range(config.layers):
            # Only scalars are read after the last layer.
            wanted = scalars if n == config.layers - 1 else features(c, config.lmax, config.parity)
            layers.append(Layer(irreps, wanted, config))
            irreps = layers[-1].irreps_out
        self.layers = nn.ModuleList(layers)
        self.readout = nn.Sequential(nn.Linear(c, c), nn.SiLU(), nn.Linear(c, 1))

    def forward(self, species: Tensor, edge_vec: Tensor, edge_index: Tensor, graph: Graph | None = None) -> Tensor:
        """Atomic energies (N,): species (N,) in [0, num_species), edge_vec (E, 3), edge_index (2, E).

        edge_vec is position[sender] + shifts @ cell - position[receiver]; edge_index holds senders, receivers.
        """
        graph = inputs(species, edge_vec, edge_index, graph, self.config.num_species)
        r = radial.length(edge_vec)
        y = spherical_harmonics(range(self.config.lmax + 1), edge_vec, True, "component")
        x = self.embedding(species)
        for layer in self.layers:
            x = layer(x, r, y, graph)
        return self.readout(x).squeeze(1)  # type: ignore[no-any-return]
