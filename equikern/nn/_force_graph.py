"""`force_graph`: energy and forces of a whole model in one native call, for molecular dynamics."""

from __future__ import annotations

from operator import is_
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from equikern.errors import EquikernError, ShapeError
from equikern.graph import Graph
from equikern.ops import PaiNNConfig
from equikern.ops.painn import evaluate_packed, pack, packs


@runtime_checkable
class WholeModel(Protocol):
    """A module that is one op as well: `whole` gives its configuration and its weights, in the op's order."""

    def whole(self) -> tuple[PaiNNConfig, list[Tensor]]:
        """(configuration, weights)."""

    def energies_and_gradients(
        self, species: Tensor, edge_vec: Tensor, edge_index: Tensor, graph: Graph | None = None
    ) -> tuple[Tensor, Tensor]:
        """Atomic energies (N,) and d(their sum)/d(edge_vec), (E, 3)."""


def force_graph(model: torch.nn.Module, species: Tensor, edge_index: Tensor) -> ForceGraph:
    """Energy and forces of `model` as a function of positions, with the least work a call.

    species (N,) and edge_index (2, E), senders and receivers, are checked and sorted now, the weights are packed at
    the first call and again when they have changed. Nothing is recorded for autograd: to train, call
    `model.energy_and_forces`. Supported are models that exist as one op (`models.PaiNN`), on the CPU in float32 and
    float64; on a device the model runs layer by layer.
    Raises EquikernError for another model, ShapeError for species or edges that do not fit.

    >>> from equikern.models import PaiNN, PaiNNConfig
    >>> model = PaiNN(PaiNNConfig(layers=2, channels=8, hidden=4))
    >>> forces_of = force_graph(model, torch.tensor([6, 8]), torch.tensor([[0, 1], [1, 0]]))
    >>> energy, forces = forces_of(torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.1]]))
    >>> forces.shape
    torch.Size([2, 3])
    """
    if not isinstance(model, WholeModel):
        raise EquikernError(
            f"force_graph runs models that are one op, as equikern.models.PaiNN; {type(model).__name__} is none. "
            "Differentiate its energy by torch.autograd.grad(energy, positions)."
        )
    return ForceGraph(model, species, edge_index)


class ForceGraph:
    """What `force_graph` returns; call it with positions."""

    def __init__(self, model: WholeModel, species: Tensor, edge_index: Tensor) -> None:
        if species.ndim != 1 or species.dtype not in (torch.int32, torch.int64):
            raise ShapeError(f"species are integers (N,); got {tuple(species.shape)} {species.dtype}.")
        self.model = model
        self.species = species.to(torch.int64, copy=True)
        self.set_edges(edge_index)
        self._packed_of: list[Tensor] = []
        self._versions: list[tuple[int, int]] = []

    def set_edges(self, edge_index: Tensor) -> None:
        """Take a new neighbour list, (2, E)."""
        self.graph = Graph(edge_index, self.species.shape[0])
        self._plans = [self.species, *self.graph.index[:4], *self.graph.by_sender]

    def __call__(self, positions: Tensor, offsets: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Energy (), summed in float64, and forces (N, 3) at positions (N, 3).

        offsets (E, 3) = shifts @ cell of periodic edges. Raises ShapeError for positions that do not fit the weights.
        """
        energy, forces, _, _ = self._evaluate(positions, offsets)
        return energy, forces

    def virial(self, positions: Tensor, offsets: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Energy, forces and the virial -dE/d(strain), (3, 3), symmetric; the stress is -virial / volume."""
        energy, forces, vec, g = self._evaluate(positions, offsets)
        virial = vec.T @ g
        return energy, forces, -0.5 * (virial + virial.T)

    @torch.no_grad()
    def _evaluate(self, positions: Tensor, offsets: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if positions.requires_grad:
            raise EquikernError(
                "force_graph evaluates, its results have no derivative; detach the positions, or train by "
                "model.energy_and_forces."
            )
        if positions.shape != (self.species.shape[0], 3):
            raise ShapeError(f"positions are {tuple(positions.shape)}; the graph has {self.species.shape[0]} atoms.")
        sender, receiver = self.graph.sender, self.graph.receiver
        vec = positions.index_select(0, sender).sub_(positions.index_select(0, receiver))
        if offsets is not None:
            if offsets.shape != vec.shape or offsets.dtype is not vec.dtype:
                raise ShapeError(
                    f"offsets are {tuple(offsets.shape)} {offsets.dtype}; expected {tuple(vec.shape)} {vec.dtype}."
                )
            vec += offsets
        energies, g = self._energies(vec)
        forces = torch.zeros_like(positions).index_add_(0, receiver, g).index_add_(0, sender, g, alpha=-1)
        return energies.sum(dtype=torch.float64), forces, vec, g

    def _energies(self, vec: Tensor) -> tuple[Tensor, Tensor]:
        if not packs(vec):
            return self.model.energies_and_gradients(self.species, vec, self.graph.edge_index, self.graph)
        config, weights = self.model.whole()
        # Packed again when a parameter is another tensor, has other data, or was written to.
        versions = [(w._version, w.data_ptr()) for w in weights]
        same = len(weights) == len(self._packed_of) and all(map(is_, weights, self._packed_of))
        if not same or versions != self._versions:
            self._packed = pack(config, weights)
            self._packed_of, self._versions = weights, versions
        return evaluate_packed(config, vec, self._plans, self._packed)
