"""DeepPot-SE, the descriptor se_e2_a of DeePMD-kit and its fitting network.

Source: L. Zhang, J. Han, H. Wang, W. A. Saidi, R. Car, W. E, "End-to-end symmetry preserving inter-atomic potential
energy model for finite and extended systems", NeurIPS 2018, in the form of DeePMD-kit 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt

import torch
from torch import Tensor, nn

from equikern.errors import EquikernError
from equikern.graph import Graph
from equikern.models._checks import check_sizes
from equikern.nn import RadialConvolution
from equikern.ops import radial

# Shorter edges count as this long: 1 / r ends there.
SHORTEST = 1e-3
LEAST_DEVIATION = 1e-2


@dataclass(frozen=True)
class DeepPotSEConfig:
    """Sizes of a DeepPot-SE; those of DeePMD-kit's example of water by default.

    cutoff, switch: lengths where the weight 1/r ends, and from where on it is switched off smoothly, in the unit of
    the edge vectors. slots: for each species the number of neighbours of that species that is reckoned with (`sel`).
    embedding: widths of the embedding network; axis: columns of the descriptor, its first channels; fitting: hidden
    widths of the fitting network. one_side: embeddings of the neighbour's species, not of the pair's.
    """

    cutoff: float = 6.0
    switch: float = 0.5
    slots: tuple[int, ...] = (46, 92)
    embedding: tuple[int, ...] = (25, 50, 100)
    axis: int = 16
    fitting: tuple[int, ...] = (240, 240, 240)
    one_side: bool = True

    def __post_init__(self) -> None:
        check_sizes(self, ("axis",), ("cutoff", "switch"))
        if self.switch >= self.cutoff:
            raise EquikernError(f"DeepPotSEConfig: switch is below the cutoff, {self.cutoff}; got {self.switch!r}.")
        for field in ("slots", "embedding", "fitting"):
            sizes = getattr(self, field)
            if not sizes or not all(isinstance(n, int) and n >= 1 for n in sizes):
                raise EquikernError(f"DeepPotSEConfig: {field} are integers >= 1, at least one; got {sizes!r}.")
        if self.axis > self.embedding[-1]:
            raise EquikernError(
                f"DeepPotSEConfig: axis is at most the width of the embedding, {self.embedding[-1]}; got {self.axis}."
            )

    @property
    def num_species(self) -> int:
        """As many as there are kinds of slots."""
        return len(self.slots)


class Skip(nn.Module):
    """tanh(x A + b); with as many columns as x, or twice as many, dt tanh(x A + b) + x, or + (x, x).

    dt is 1 unless it is trained.
    """

    def __init__(self, width: int, out: int, timestep: bool) -> None:
        super().__init__()
        self.linear = _normal(nn.Linear(width, out))
        self.copies = out // width if out in (width, 2 * width) else 0
        self.dt = nn.Parameter(0.1 + 0.001 * torch.randn(out)) if timestep and self.copies else None

    def forward(self, x: Tensor) -> Tensor:
        """x (..., width) -> (..., out)."""
        h = torch.tanh(self.linear(x))
        h = h if self.dt is None else self.dt * h
        return h + torch.cat([x] * self.copies, -1) if self.copies else h


class Network(nn.Sequential):
    """Layers with skips, of the given widths."""

    def __init__(self, widths: Sequence[int], timestep: bool = False) -> None:
        super().__init__(*(Skip(a, b, timestep) for a, b in pairwise(widths)))


class Environment(nn.Module):
    """The weights of a neighbour at distance r: its embedding G, times its row of the environment matrix.

    With s = switch(r) / r and the mean and the deviations of the receiver's species, x = (s - mean) / deviation, the
    row is (x, s / deviation' * direction) and the weights are (G(x) x, G(x) s / deviation'). The first are taken
    relative to those of an empty slot, s = 0: they vanish at the cutoff.
    """

    def __init__(self, config: DeepPotSEConfig) -> None:
        super().__init__()
        self.config, species = config, config.num_species
        widths = (1, *config.embedding)
        self.embeddings = nn.ModuleList([Network(widths) for _ in range(species if config.one_side else species**2)])
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", torch.zeros(species))
        self.register_buffer("deviation", torch.ones(species, 2))

    def smooth_inverse(self, r: Tensor) -> Tensor:
        """s(r) = switch(r) / r."""
        return radial.deepmd_switch(r, self.config.switch, self.config.cutoff) / r.clamp(min=SHORTEST)

    def forward(self, r: Tensor, sender: Tensor, receiver: Tensor) -> Tensor:
        """r (E,) and the species of both ends, (E,) -> (E, 2 M)."""
        s = self.smooth_inverse(r)
        scalars, embedded = self._scalars(s, sender, receiver)
        empty, _ = self._scalars(torch.zeros_like(s), sender, receiver)
        # The harmonics of RadialConvolution are sqrt(3) times the direction.
        vectors = embedded * (s / (sqrt(3) * self.deviation[receiver, 1])).unsqueeze(1)
        return torch.cat([scalars - empty, vectors], 1)

    def empty(self, species: Tensor) -> Tensor:
        """What the slots of an atom add when they are all empty, (N, M)."""
        total = torch.zeros((), dtype=self.mean.dtype, device=self.mean.device)
        for neighbour, slots in enumerate(self.config.slots):
            sender = torch.full_like(species, neighbour)
            total = total + slots * self._scalars(self.mean.new_zeros(species.shape), sender, species)[0]
        return total

    def _scalars(self, s: Tensor, sender: Tensor, receiver: Tensor) -> tuple[Tensor, Tensor]:
        """G(x) x and G(x), (E, M) each."""
        x = ((s - self.mean[receiver]) / self.deviation[receiver, 0]).unsqueeze(1)  # (E, 1)
        kind = sender if self.config.one_side else receiver * self.config.num_species + sender
        embedded = _by_kind(self.embeddings, x, kind, self.config.embedding[-1])
        return embedded * x, embedded


class DeepPotSE(nn.Module):
    """Atomic energies of DeepPot-SE, from the neighbours within the cutoff and the angles between them.

    The descriptor of an atom is D = T T[:axis]^T, T (M, 4) the sum over its neighbours of embeddings times rows of the
    environment matrix, over the number of slots: one convolution whose weights are functions of the edge length
    (`nn.RadialConvolution`), which in float32 are read from tables where that is quicker. Slots that no neighbour
    fills count as empty rows, as in DeePMD-kit; neighbours beyond the slots count too, where it drops them. Edges
    shorter than 1e-3 count as that long. Set `mean` and `deviation` by `standardize` before training.
    """

    def __init__(self, config: DeepPotSEConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or DeepPotSEConfig()
        m = config.embedding[-1]
        self.environment = Environment(config)
        self.convolution = RadialConvolution(
            f"{m}x0e", "0e+1o", f"{m}x0e+{m}x1o", [(0, 0, 0, "uvu", True), (0, 1, 1, "uvu", True)],
            radial=self.environment, r_max=config.cutoff, num_species=config.num_species,
        )  # fmt: skip
        widths = (m * config.axis, *config.fitting)
        self.fitting = nn.ModuleList(
            [
                nn.Sequential(Network(widths, timestep=True), _normal(nn.Linear(widths[-1], 1)))
                for _ in range(config.num_species)
            ]
        )

    def forward(self, species: Tensor, edge_vec: Tensor, edge_index: Tensor, graph: Graph | None = None) -> Tensor:
        """Atomic energies (N,): species (N,) in [0, num_species), edge_vec (E, 3), edge_index (2, E).

        edge_vec is position[sender] + shifts @ cell - position[receiver]; edge_index holds senders, receivers.
        """
        descriptor = self.descriptor(species, edge_vec, edge_index, graph)
        return _by_kind(self.fitting, descriptor, species, 1).squeeze(1)

    def descriptor(self, species: Tensor, edge_vec: Tensor, edge_index: Tensor, graph: Graph | None = None) -> Tensor:
        """D (N, M * axis), invariant; the arguments of `forward`."""
        m, axis = self.config.embedding[-1], self.config.axis
        ones = edge_vec.new_ones(species.shape[0], m)
        out = self.convolution(ones, edge_vec, edge_index, species=species, graph=graph)
        scalars, vectors = out[:, :m] + self.environment.empty(species), out[:, m:].unflatten(1, (m, 3))
        t = torch.cat([scalars.unsqueeze(2), vectors], 2) / sum(self.config.slots)  # (N, M, 4)
        return (t @ t[:, :axis].mT).flatten(1)

    @torch.no_grad()
    def standardize(self, species: Tensor, edge_vec: Tensor, edge_index: Tensor) -> None:
        """Take `mean` and `deviation` from training structures, of which the arguments are one large graph.

        They are those of the rows of the environment matrix, empty slots included. The mean direction counts as zero,
        which makes them invariant, unlike DeePMD-kit's. Species that are absent keep theirs.
        """
        environment, receiver = self.environment, species[edge_index[1]]
        s = environment.smooth_inverse(edge_vec.norm(dim=1))
        count = torch.bincount(species, minlength=self.config.num_species) * sum(self.config.slots)
        present = count > 0
        zero = s.new_zeros(self.config.num_species)
        mean = zero.index_add(0, receiver, s) / count
        square = zero.index_add(0, receiver, s.square()) / count
        # The three columns s * direction share s^2.
        deviation = torch.stack([(square - mean.square()).sqrt(), (square / 3).sqrt()], 1).clamp(min=LEAST_DEVIATION)
        environment.mean[present] = mean[present]
        environment.deviation[present] = deviation[present]


def _by_kind(modules: nn.ModuleList, x: Tensor, kind: Tensor, width: int) -> Tensor:
    """Each row of x (n, ...) by the module of its kind (n,) -> (n, width)."""
    if len(modules) == 1:
        return modules[0](x)  # type: ignore[no-any-return]
    out = x.new_zeros(x.shape[0], width)
    for number, module in enumerate(modules):
        rows = (kind == number).nonzero().squeeze(1)
        if rows.numel():
            out = out.index_copy(0, rows, module(x.index_select(0, rows)))
    return out


def _normal(linear: nn.Linear) -> nn.Linear:
    """Weights normal with a variance of 1 / (fan in + fan out), biases standard normal."""
    nn.init.normal_(linear.weight, std=(linear.in_features + linear.out_features) ** -0.5)
    nn.init.normal_(linear.bias)
    return linear
