"""NequIP: an E(3)-equivariant interatomic potential of tensor-product convolutions.

Source: S. Batzner, A. Musaelian, L. Sun, M. Geiger, J. P. Mailoa, M. Kornbluth, N. Molinari, T. E. Smidt and
B. Kozinsky, "E(3)-equivariant graph neural networks for data-efficient and accurate interatomic potentials", Nature
Communications 13, 2453 (2022), in the form of the package nequip 0.19; `interop.from_nequip` reads its models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite, pi

import torch
from torch import Tensor, nn

from equikern.errors import EquikernError
from equikern.graph import Graph
from equikern.models._checks import check_sizes
from equikern.models._parts import inputs, reachable
from equikern.nn import MLP, Gate, RadialConvolution, SpeciesLinear
from equikern.o3 import Irrep, Irreps, Linear
from equikern.ops import radial, radial_embedding, spherical_harmonics
from equikern.program import channelwise

# Of scalars, by parity.
ACTIVATIONS: dict[int, Callable[[Tensor], Tensor] | None] = {1: nn.functional.silu, -1: torch.tanh}
GAIN = 2**0.5


@dataclass(frozen=True)
class NequIPConfig:
    """Sizes of a NequIP.

    cutoff: radius, in the unit of the edge vectors. channels: of each irrep, one number or one for each l <= lmax.
    parity: both parities of each l; without it only those of the harmonics, (-1)^l. attributes: width of the species'
    embedding (None: channels of l = 0). num_basis: Bessel functions; cutoff_power: p of the polynomial cutoff.
    radial, readout: hidden widths of the networks of the edge length and of the energy.
    avg_num_neighbors: sums over neighbours are divided by its root; with one number a species, each neighbour by that
    of its own.
    """

    cutoff: float = 5.0
    num_species: int = 100
    layers: int = 4
    lmax: int = 2
    channels: int | tuple[int, ...] = 64
    parity: bool = True
    attributes: int | None = None
    num_basis: int = 8
    cutoff_power: int = 6
    radial: tuple[int, ...] = (128,)
    readout: tuple[int, ...] = ()
    avg_num_neighbors: float | tuple[float, ...] = 20.0

    def __post_init__(self) -> None:
        check_sizes(self, ("num_species", "layers", "num_basis", "cutoff_power"))
        if not isinstance(self.lmax, int) or self.lmax < 0 or self.cutoff_power < 2:
            raise EquikernError(f"NequIPConfig: lmax is an integer >= 0, cutoff_power >= 2; got {self}.")
        if isinstance(self.channels, tuple) and len(self.channels) != self.lmax + 1:
            raise EquikernError(
                f"NequIPConfig: lmax = {self.lmax} needs {self.lmax + 1} channels; got {self.channels}."
            )
        if len(self.neighbours) != self.num_species or not all(isfinite(n) and n > 0 for n in self.neighbours):
            raise EquikernError(
                "NequIPConfig: avg_num_neighbors is finite and above 0, one number or one a species; got "
                f"{self.avg_num_neighbors!r}."
            )
        if min(*self._channels, self._attributes, *self.radial, *self.readout) < 1:
            raise EquikernError(f"NequIPConfig: channels and widths are at least 1; got {self}.")

    @property
    def neighbours(self) -> tuple[float, ...]:
        """Of each species."""
        given = self.avg_num_neighbors
        return given if isinstance(given, tuple) else (given,) * self.num_species

    @property
    def _channels(self) -> tuple[int, ...]:
        return self.channels if isinstance(self.channels, tuple) else (self.channels,) * (self.lmax + 1)

    @property
    def _attributes(self) -> int:
        return self._channels[0] if self.attributes is None else self.attributes

    @property
    def irreps_embedding(self) -> Irreps:
        """Of the species' embedding, the first features."""
        return Irreps([(self._attributes, (0, 1))])

    @property
    def irreps_harmonics(self) -> Irreps:
        """0e + 1o + 2e ... up to lmax."""
        return Irreps.spherical_harmonics(self.lmax)

    @property
    def irreps_hidden(self) -> Irreps:
        """Of the features between layers, as far as paths lead to them."""
        every = [Irrep(n, p) for n in range(self.lmax + 1) for p in (1, -1)]
        return Irreps([(self._channels[ir.l], ir) for ir in every if self.parity or ir.p == (-1) ** ir.l])

    @property
    def irreps_last(self) -> Irreps:
        """Of the features that the energy is read from."""
        return Irreps([(self._channels[0], (0, 1))])


class Radial(nn.Module):
    """The weights of a convolution, (E,) -> (E, W): a network of Bessel functions times the cutoff."""

    def __init__(self, config: NequIPConfig, weights: int) -> None:
        super().__init__()
        self.config = config
        self.network = MLP((config.num_basis, *config.radial, weights), gain=GAIN, uniform=True)

    def forward(self, r: Tensor) -> Tensor:
        """r (E,) -> (E, W), zero from the cutoff on."""
        c = self.config
        scale = 2 * pi / c.cutoff**2
        basis = radial_embedding(r, c.num_basis, c.cutoff, prefactor="nequip", p=c.cutoff_power, scale=scale)  # (E, K)
        return self.network(basis)  # type: ignore[no-any-return]


class Interaction(nn.Module):
    """x_i <- gate(linear(sum over j of R(r_ij) (linear(x_j) / sqrt(neighbours)) tensor Y(r_ij)) + W(species_i) x_i)."""

    def __init__(self, config: NequIPConfig, irreps_in: Irreps, irreps_out: Irreps, self_connection: bool) -> None:
        super().__init__()
        y = config.irreps_harmonics
        reached = reachable(irreps_in, y, irreps_out)
        scalars, gated = (Irreps([e for e in reached if (e.ir.l == 0) == is_scalar]) for is_scalar in (True, False))
        self.gate = Gate(
            scalars, [ACTIVATIONS[ir.p] for _, ir in scalars],
            [(mul, "0e") for mul, _ in gated], [ACTIVATIONS[1]] * len(gated), gated,
        )  # fmt: skip
        middle, instructions = channelwise(irreps_in, y, self.gate.irreps_in)
        weights = sum(irreps_in[i].mul for i, *_ in instructions)
        self.norm: Tensor
        self.register_buffer("norm", torch.tensor(config.neighbours).rsqrt().unsqueeze(1))  # (S, 1)
        self.linear_1 = Linear(irreps_in, irreps_in)
        self.convolution = RadialConvolution(
            irreps_in, y, middle, instructions, radial=Radial(config, weights), r_max=config.cutoff
        )
        self.linear_2 = Linear(middle.simplify(), self.gate.irreps_in)
        self.self_connection = None
        if self_connection:
            self.self_connection = SpeciesLinear(irreps_in, self.gate.irreps_in, config.irreps_embedding.dim)
        self.irreps_out = Irreps(self.gate.irreps_out)

    def forward(self, x: Tensor, species: Tensor, embedding: Tensor, r: Tensor, y: Tensor, graph: Graph) -> Tensor:
        """x (N, dim in), species (N,) in rows of embedding (S, A), edges r (E,), y (E, harmonics) -> (N, dim out)."""
        z = self.linear_2(self.convolution.convolve(self.linear_1(x) * self.norm[species], r, y, graph))
        if self.self_connection is not None:
            z = z + self.self_connection(x, species, embedding)
        return self.gate(z)  # type: ignore[no-any-return]


class NequIP(nn.Module):
    """Atomic energies of NequIP, with derivatives of any order; the unit of energy is that of the training data.

    In float32 the weights of convolutions are read from splines where that pays (`nn.RadialConvolution`).
    An atom without neighbours has the energy 0; an edge of length zero has the harmonics of l = 0 alone.
    `scale` (num_species,) multiplies the energy of each species: ones, and not trained.

    >>> model = NequIP(NequIPConfig(layers=2, channels=8, radial=(16,)))
    >>> edges = torch.tensor([[0, 1], [1, 0]])
    >>> model(torch.tensor([6, 8]), torch.tensor([[0.0, 0.0, 1.1], [0.0, 0.0, -1.1]]), edges).shape
    torch.Size([2])
    """

    def __init__(self, config: NequIPConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or NequIPConfig()
        self.embedding = nn.Embedding(config.num_species, config.irreps_embedding.dim)
        self.layers = nn.ModuleList()
        irreps = config.irreps_embedding
        for n in range(config.layers):
            out = config.irreps_last if n == config.layers - 1 else config.irreps_hidden
            # None in the first layer: an isolated atom then has no energy but its reference.
            layer = Interaction(config, irreps, out, self_connection=n > 0)
            self.layers.append(layer)
            irreps = layer.irreps_out
        self.readout = MLP((irreps.dim, *config.readout, 1), gain=GAIN, uniform=True)
        self.scale: Tensor
        self.register_buffer("scale", torch.ones(config.num_species))

    def forward(self, species: Tensor, edge_vec: Tensor, edge_index: Tensor, graph: Graph | None = None) -> Tensor:
        """Atomic energies (N,): species (N,) indexes the embedding, edge_vec (E, 3), edge_index (2, E).

        edge_vec is position[sender] + shifts @ cell - position[receiver]; edge_index holds senders, receivers.
        """
        graph = inputs(species, edge_vec, edge_index, graph, self.config.num_species)
        r = radial.length(edge_vec)  # (E,)
        y = spherical_harmonics(self.config.irreps_harmonics.ls, edge_vec, True, "component")
        x = self.embedding(species)  # (N, A)
        for layer in self.layers:
            x = layer(x, species, self.embedding.weight, r, y, graph)
        return self.readout(x).squeeze(1) * self.scale[species]  # type: ignore[no-any-return]
