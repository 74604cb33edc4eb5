"""MACE: many-body messages from symmetric products of atomic bases.

Source: I. Batatia, D. P. Kovács, G. N. C. Simm, C. Ortner and G. Csányi, "MACE: higher order equivariant message
passing neural networks for fast and accurate force fields", NeurIPS 2022 (arXiv:2206.07697), in the form of the package
mace-torch 0.3; `interop.from_mace` reads its models.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from equikern.errors import EquikernError
from equikern.graph import Graph
from equikern.models._checks import check_sizes
from equikern.models._parts import inputs
from equikern.nn import GAINS, MLP, RadialConvolution, SpeciesLinear, SymmetricContraction
from equikern.o3 import Irreps, Linear
from equikern.ops import radial, radial_embedding, spherical_harmonics
from equikern.program import channelwise


@dataclass(frozen=True)
class MACEConfig:
    """Sizes of a MACE.

    cutoff: radius, in the unit of the edge vectors. channels: of every irrep. lmax: of the harmonics and of what is
    multiplied; lmax_hidden: of the features between layers. correlation: the highest power, so that messages are of
    correlation + 1 bodies. first_residual: a self-connection in the first layer too, and none by species before its
    powers. num_basis: Bessel functions; cutoff_power: p of the polynomial cutoff. radial: hidden widths of the networks
    of the edge length; hidden: width of the last readout. avg_num_neighbors divides sums over neighbours.
    """

    cutoff: float = 5.0
    num_species: int = 100
    layers: int = 2
    channels: int = 128
    lmax: int = 3
    lmax_hidden: int = 1
    correlation: int | tuple[int, ...] = 3
    first_residual: bool = False
    num_basis: int = 8
    cutoff_power: int = 5
    radial: tuple[int, ...] = (64, 64, 64)
    hidden: int = 16
    avg_num_neighbors: float = 20.0

    def __post_init__(self) -> None:
        sizes = ("num_species", "layers", "channels", "num_basis", "cutoff_power", "hidden")
        check_sizes(self, sizes, ("cutoff", "avg_num_neighbors"))
        degrees = (self.lmax_hidden, self.lmax)
        if not all(isinstance(n, int) for n in degrees) or not 0 <= self.lmax_hidden <= self.lmax <= 3:
            raise EquikernError(f"MACEConfig: 0 <= lmax_hidden <= lmax <= 3, integers; got {degrees}.")
        if self.cutoff_power < 2 or min(self.radial, default=1) < 1:
            raise EquikernError(f"MACEConfig: cutoff_power is at least 2, widths at least 1; got {self}.")
        if len(self.correlations) != self.layers or not all(1 <= n <= 4 for n in self.correlations):
            raise EquikernError(
                f"MACEConfig: correlation is 1 to 4, one number or one a layer; got {self.correlation!r}."
            )

    @property
    def correlations(self) -> tuple[int, ...]:
        """Of each layer."""
        return self.correlation if isinstance(self.correlation, tuple) else (self.correlation,) * self.layers

    def irreps(self, lmax: int) -> Irreps:
        """C channels of 0e + 1o + 2e ... up to lmax."""
        return Irreps([(self.channels, ir) for _, ir in Irreps.spherical_harmonics(lmax)])


class Radial(nn.Module):
    """The weights of a convolution, (E,) -> (E, W): a network of Bessel functions times the cutoff."""

    def __init__(self, config: MACEConfig, weights: int) -> None:
        super().__init__()
        self.config = config
        self.network = MLP((config.num_basis, *config.radial, weights), gain=GAINS["silu"])

    def forward(self, r: Tensor) -> Tensor:
        """r (E,) -> (E, W), zero from the cutoff on."""
        c = self.config
        basis = radial_embedding(r, c.num_basis, c.cutoff, prefactor="mace", p=c.cutoff_power)  # (E, K)
        return self.network(basis)  # type: ignore[no-any-return]


class Interaction(nn.Module):
    """A_i = linear(sum over j of R(r_ij) (linear(h_j) tensor Y(r_ij))) / neighbours; h_i <- linear(B(A_i)) + W_i h_i.

    B are the symmetric powers of A up to the correlation, with weights by species (equations 8 to 11); W_i is a map by
    species too. Without the residual term, it multiplies A_i instead.
    """

    def __init__(
        self, config: MACEConfig, irreps_in: Irreps, irreps_out: Irreps, *, correlation: int, residual: bool
    ) -> None:
        super().__init__()
        y, a = Irreps.spherical_harmonics(config.lmax), config.irreps(config.lmax)
        middle, instructions = channelwise(irreps_in, y, a)
        paths = [(*ins, config.avg_num_neighbors**-2) for ins in instructions]  # of a variance
        weights = sum(irreps_in[i].mul for i, *_ in paths)
        self.linear_up = Linear(irreps_in, irreps_in)
        self.convolution = RadialConvolution(
            irreps_in, y, middle, paths, radial=Radial(config, weights), r_max=config.cutoff
        )
        self.linear = Linear(middle.simplify(), a)
        self.residual = residual
        self.skip = SpeciesLinear(*((irreps_in, irreps_out) if residual else (a, a)), config.num_species)
        self.power = SymmetricContraction(a, irreps_out, correlation=correlation, num_species=config.num_species)
        self.product_linear = Linear(irreps_out, irreps_out)
        self.irreps_out = irreps_out

    def forward(self, h: Tensor, species: Tensor, r: Tensor, y: Tensor, graph: Graph) -> Tensor:
        """h (N, dim in), species (N,), edges r (E,), y (E, harmonics) -> (N, dim out)."""
        a = self.linear(self.convolution.convolve(self.linear_up(h), r, y, graph))
        if not self.residual:
            return self.product_linear(self.power(self.skip(a, species), species))  # type: ignore[no-any-return]
        return self.product_linear(self.power(a, species)) + self.skip(h, species)  # type: ignore[no-any-return]


class MACE(nn.Module):
    """Atomic energies of MACE, with derivatives of any order; the unit of energy is that of the training data.

    In float32 the weights of convolutions are read from splines where that pays (`nn.RadialConvolution`).
    The energy of an atom without neighbours is that of its species in the residual terms, 0 if the first layer has
    none; an edge of length zero has the harmonics of l = 0 alone.

    >>> import torch
    >>> model = MACE(MACEConfig(channels=4, lmax=1, correlation=2, radial=(16,), num_species=10))
    >>> edges = torch.tensor([[0, 1], [1, 0]])
    >>> model(torch.tensor([6, 8]), torch.tensor([[0.0, 0.0, 1.1], [0.0, 0.0, -1.1]]), edges).shape
    torch.Size([2])
    """

    def __init__(self, config: MACEConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or MACEConfig()
        self.embedding = nn.Embedding(config.num_species, config.channels)
        self.layers, self.readouts = nn.ModuleList(), nn.ModuleList()
        irreps = config.irreps(0)
        for n, correlation in enumerate(config.correlations):
            last = n == config.layers - 1
            out = config.irreps(0 if last else config.lmax_hidden)
            residual = n > 0 or config.first_residual
            self.layers.append(Interaction(config, irreps, out, correlation=correlation, residual=residual))
            hidden = (config.hidden,) if last and n > 0 else ()
            self.readouts.append(MLP((config.channels, *hidden, 1), gain=GAINS["silu"]))
            irreps = out

    def forward(self, species: Tensor, edge_vec: Tensor, edge_index: Tensor, graph: Graph | None = None) -> Tensor:
        """Atomic energies (N,): species (N,) indexes the embedding, edge_vec (E, 3), edge_index (2, E).

        edge_vec is position[sender] + shifts @ cell - position[receiver]; edge_index holds senders, receivers.
        """
        graph = inputs(species, edge_vec, edge_index, graph, self.config.num_species)
        r = radial.length(edge_vec)  # (E,)
        y = spherical_harmonics(range(self.config.lmax + 1), edge_vec, True, "component")
        h = self.embedding(species)  # (N, C)
        energy = h.new_zeros(h.shape[0])
        for layer, readout in zip(self.layers, self.readouts, strict=True):
            h = layer(h, species, r, y, graph)
            energy = energy + readout(h[:, : self.config.channels]).squeeze(1)
        return energy
