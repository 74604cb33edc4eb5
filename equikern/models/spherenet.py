"""SphereNet: messages of edges that see distances, angles and torsions.

Source: Y. Liu, L. Wang, M. Liu, X. Zhang, B. Oztekin, S. Ji, "Spherical message passing for 3D molecular graphs", ICLR
2022 (arXiv:2102.05013). Different from the public code: an atom is no candidate for its own torsion, and one without
candidates has a whole turn; all bases have the envelope, so that forces are continuous at the cutoff; torsions go over
smoothly from one neighbour to the next (ops/torsion.py); j_l goes with Y_lm of its own degree l.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi, sqrt

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from equikern.graph import Graph, edge_pairs
from equikern.models._checks import check_sizes
from equikern.models._parts import inputs
from equikern.nn import SchNetMessage
from equikern.ops import radial, spherical_harmonics
from equikern.ops.torsion import torsion_harmonics


@dataclass(frozen=True)
class SphereNetConfig:
    """Sizes of a SphereNet.

    cutoff in the unit of the edge vectors; channels of edges, of the messages between them (`inner`), of the bases'
    first linear maps (`narrow`) and of the output networks (`output`, output_layers); num_basis radial functions;
    degrees of angles and torsions; residual blocks before and after the skip.
    """

    cutoff: float = 5.0
    num_species: int = 100
    layers: int = 4
    channels: int = 128
    inner: int = 64
    narrow: int = 8
    output: int = 256
    output_layers: int = 3
    num_basis: int = 6
    degrees: int = 7
    before: int = 1
    after: int = 2

    def __post_init__(self) -> None:
        check_sizes(self, tuple(name for name in self.__dataclass_fields__ if name != "cutoff"))


class RadialBasis(nn.Module):
    """u(t) sin(f_k t) / t, t = r / cutoff, u the polynomial cutoff; the frequencies start at k pi and are trained."""

    def __init__(self, n: int, cutoff: float) -> None:
        super().__init__()
        self.frequency = nn.Parameter(pi * torch.arange(1, n + 1))
        self.cutoff = cutoff

    def forward(self, r: Tensor) -> Tensor:
        """r (E,) -> (E, n)."""
        wave = self.frequency * radial.sinc((r / self.cutoff).unsqueeze(1) * self.frequency)
        return radial.polynomial_cutoff(r, self.cutoff).unsqueeze(1) * wave


class Residual(nn.Module):
    """x + silu(W2 silu(W1 x))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(channels, channels), nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """x (E, C) -> (E, C)."""
        return x + silu(self.second(silu(self.first(x))))


class Initial(nn.Module):
    """The first message of an edge s -> r: silu(W [x_r, x_s, silu(W' basis)])."""

    def __init__(self, config: SphereNetConfig) -> None:
        super().__init__()
        c = config.channels
        self.embedding = nn.Embedding(config.num_species, c)
        nn.init.uniform_(self.embedding.weight, -sqrt(3), sqrt(3))
        self.basis, self.mix = nn.Linear(config.num_basis, c), nn.Linear(3 * c, c)

    def forward(self, species: Tensor, basis: Tensor, graph: Graph) -> Tensor:
        """species (N,), basis (E, K) -> (E, C)."""
        x = self.embedding(species)
        return silu(self.mix(torch.cat([x[graph.receiver], x[graph.sender], silu(self.basis(basis))], 1)))


class Interaction(nn.Module):
    """Messages q -> s, weighed by distance, angle and torsion, go on to the edges s -> r."""

    def __init__(self, config: SphereNetConfig) -> None:
        super().__init__()
        c, inner, narrow, degrees = config.channels, config.inner, config.narrow, config.degrees
        self.own, self.neighbour = nn.Linear(c, c), nn.Linear(c, c)
        self.down, self.up = nn.Linear(c, inner, bias=False), nn.Linear(inner, c, bias=False)
        self.radial = two_linear(config.num_basis, narrow, c)
        self.angle = two_linear(degrees * config.num_basis, narrow, inner)
        self.torsion = two_linear(degrees**2 * config.num_basis, narrow, inner)
        self.sum = SchNetMessage(inner)
        self.before = nn.Sequential(*[Residual(c) for _ in range(config.before)])
        self.skip = nn.Linear(c, c)
        self.after = nn.Sequential(*[Residual(c) for _ in range(config.after)])

    def forward(
        self, m: Tensor, basis: Tensor, angles: Tensor, torsions: Tensor, pairs: Tensor, edges: Graph
    ) -> Tensor:
        """m (E, C), basis (E, K), angles (T, A), torsions (T, B), pairs (2, T), the graph of edges -> (E, C)."""
        x = silu(self.down(silu(self.neighbour(m)) * self.radial(basis)))  # (E, inner)
        x = self.sum(x, self.angle(angles) * self.torsion(torsions), pairs, edges)
        x = silu(self.own(m)) + silu(self.up(x))
        return self.after(silu(self.skip(self.before(x))) + m)  # type: ignore[no-any-return]


class Output(nn.Module):
    """Atomic energies: an MLP of the sum of W basis * m over the edges of a receiver."""

    def __init__(self, config: SphereNetConfig) -> None:
        super().__init__()
        c, wide = config.channels, config.output
        self.radial = nn.Linear(config.num_basis, c, bias=False)
        layers: list[nn.Module] = [nn.Linear(c, wide)]
        for _ in range(config.output_layers):
            layers += [nn.Linear(wide, wide), nn.SiLU()]
        self.net = nn.Sequential(*layers, nn.Linear(wide, 1, bias=False))

    def forward(self, m: Tensor, basis: Tensor, graph: Graph) -> Tensor:
        """m (E, C), basis (E, K) -> (N,)."""
        sums = m.new_zeros(graph.num_nodes, m.shape[1]).index_add(0, graph.receiver, self.radial(basis) * m)
        return self.net(sums).squeeze(1)  # type: ignore[no-any-return]


class SphereNet(nn.Module):
    """Atomic energies of a SphereNet, invariant under rotations but not in a mirror: torsions have a sense.

    Energies are continuous, forces too but for kinks of the energy where two neighbours of an atom have one azimuth
    about an edge. A vector of length zero has no direction: its angle is a right one, its torsion a whole turn. An atom
    without neighbours has one energy, whatever its species.

    >>> model = SphereNet(SphereNetConfig(layers=1, channels=8, inner=4, narrow=2, output=8, degrees=3))
    >>> edges = torch.tensor([[0, 1], [1, 0]])
    >>> vec = torch.tensor([[0.0, 0.0, 1.1], [0.0, 0.0, -1.1]])
    >>> model(torch.tensor([6, 8]), vec, edges).shape
    torch.Size([2])
    """

    def __init__(self, config: SphereNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or SphereNetConfig()
        self.basis = RadialBasis(config.num_basis, config.cutoff)
        self.initial = Initial(config)
        self.layers = nn.ModuleList([Interaction(config) for _ in range(config.layers)])
        self.outputs = nn.ModuleList([Output(config) for _ in range(config.layers + 1)])
        for module in self.modules():
            if isinstance(module, nn.Linear):
                glorot_orthogonal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, species: Tensor, edge_vec: Tensor, edge_index: Tensor, graph: Graph | None = None) -> Tensor:
        """Atomic energies (N,): species (N,) in [0, num_species), edge_vec (E, 3), edge_index (2, E).

        edge_vec is position[sender] + shifts @ cell - position[receiver]; edge_index holds senders, receivers.
        """
        graph = inputs(species, edge_vec, edge_index, graph, self.config.num_species)
        pairs = edge_pairs(graph, edge_vec)  # (2, T)
        edges = Graph(pairs, graph.num_edges)
        r = radial.length(edge_vec)
        basis = self.basis(r)  # (E, K)
        angles, torsions = self._bases(edge_vec, r, pairs)
        m = self.initial(species, basis, graph)
        energy = self.outputs[0](m, basis, graph)
        for layer, output in zip(self.layers, self.outputs[1:], strict=True):
            m = layer(m, basis, angles, torsions, pairs, edges)
            energy = energy + output(m, basis, graph)
        return energy  # type: ignore[no-any-return]

    def _bases(self, edge_vec: Tensor, r: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """u(t) j_l(z_lk t) times Y_l0(theta) (T, degrees K), and times Y_lm(theta, phi) (T, degrees^2 K)."""
        config = self.config
        direction = spherical_harmonics([1], edge_vec, True, "norm")
        zonal, harmonics = torsion_harmonics(direction, r, pairs, config.degrees, config.cutoff)
        bessel = radial.spherical_bessel(r, config.degrees, config.num_basis, config.cutoff)
        bessel = (bessel * radial.polynomial_cutoff(r, config.cutoff)[:, None, None])[pairs[0]]  # (T, degrees, K)
        degree = torch.tensor([n for n in range(config.degrees) for _ in range(2 * n + 1)], device=r.device)
        return (
            (zonal.unsqueeze(2) * bessel).flatten(1),
            (harmonics.unsqueeze(2) * bessel[:, degree]).flatten(1),
        )


def two_linear(columns: int, narrow: int, out: int) -> nn.Sequential:
    """Two linear maps without bias, through few channels."""
    return nn.Sequential(nn.Linear(columns, narrow, bias=False), nn.Linear(narrow, out, bias=False))


def glorot_orthogonal_(weight: Tensor) -> None:
    """A random (semi-)orthogonal matrix scaled to the variance 2 / (fan_in + fan_out), as in the DimeNet family."""
    nn.init.orthogonal_(weight)
    with torch.no_grad():
        variance = weight.var(correction=0) if weight.numel() > 1 else weight.square().mean()
        weight *= (2 / (sum(weight.shape) * variance)).sqrt()
