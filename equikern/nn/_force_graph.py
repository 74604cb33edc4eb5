"""`force_graph`: energy and forces of a whole model with the least work a call, for molecular dynamics."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from operator import is_
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from equikern import backends
from equikern.errors import EquikernError, ShapeError
from equikern.graph import Graph
from equikern.nn._radial_table import RadialTable
from equikern.ops import PaiNNConfig
from equikern.ops.painn import evaluate_packed, pack, packs


@runtime_checkable
class WholeModel(Protocol):
    """A module that is one op as well: `whole` gives its configuration and its weights, in the op's order."""

    def whole(self) -> tuple[PaiNNConfig, list[Tensor]]:
        """(configuration, weights)."""


def force_graph(model: torch.nn.Module, species: Tensor, edge_index: Tensor) -> ForceGraph:
    """Energy and forces of `model` as a function of positions, with the least work a call.

    model: one of `equikern.models` that reads edge vectors alone (not LEFTNet), in evaluation; species (N,) and
    edge_index (2, E), senders and receivers, are checked and sorted now. Edges beyond the cutoff, as of a list with a
    skin, change nothing. Nothing is recorded for autograd: to train, differentiate `model`.

    On the CPU `models.PaiNN` is one native op, whose weights are packed at the first call and again when they have
    changed; other models are differentiated by autograd. On a CUDA device the first call captures the step in a CUDA
    graph, which later ones replay; weights may be written in place, and others are captured anew. A model whose step
    waits for the device cannot be captured: it warns, and runs as it is.
    Raises EquikernError for another model, ShapeError for species or edges that do not fit.

    >>> from equikern.models import PaiNN, PaiNNConfig
    >>> model = PaiNN(PaiNNConfig(layers=2, channels=8, hidden=4))
    >>> forces_of = force_graph(model, torch.tensor([6, 8]), torch.tensor([[0, 1], [1, 0]]))
    >>> energy, forces = forces_of(torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.1]]))
    >>> forces.shape
    torch.Size([2, 3])
    """
    if not hasattr(getattr(model, "config", None), "num_species") or getattr(model, "uses_positions", False):
        raise EquikernError(
            "force_graph runs models of atomic energies from edge vectors, as those of equikern.models; "
            f"{type(model).__name__} is none. Differentiate its energy by torch.autograd.grad(energy, positions)."
        )
    return ForceGraph(model, species, edge_index)


class ForceGraph:
    """What `force_graph` returns; call it with positions."""

    def __init__(self, model: Any, species: Tensor, edge_index: Tensor) -> None:
        if species.ndim != 1 or species.dtype not in (torch.int32, torch.int64):
            raise ShapeError(f"species are integers (N,); got {tuple(species.shape)} {species.dtype}.")
        self.model = model
        self.species = species.to(torch.int64, copy=True)
        self.set_edges(edge_index)
        self._packed_of: list[Tensor] = []
        self._versions: list[tuple[int, int]] = []
        self._captured: _Captured | None = None

    def set_edges(self, edge_index: Tensor) -> None:
        """Take a new neighbour list, (2, E)."""
        self.graph = Graph(edge_index, self.species.shape[0])
        self.graph.check_species(self.species, self.model.config.num_species)
        self._captured = None
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
    def _evaluate(self, positions: Tensor, offsets: Tensor | None) -> list[Tensor]:
        """Energy, forces, edge vectors, d(energy)/d(edge vectors)."""
        if positions.requires_grad:
            raise EquikernError(
                "force_graph evaluates, its results have no derivative; detach the positions, or train by "
                "differentiating the model."
            )
        if positions.shape != (self.species.shape[0], 3):
            raise ShapeError(f"positions are {tuple(positions.shape)}; the graph has {self.species.shape[0]} atoms.")
        if offsets is not None and (offsets.shape != (self.graph.num_edges, 3) or offsets.dtype is not positions.dtype):
            raise ShapeError(
                f"offsets are {tuple(offsets.shape)} {offsets.dtype}; expected {(self.graph.num_edges, 3)} "
                f"{positions.dtype}."
            )
        given = [positions] if offsets is None else [positions, offsets]
        if not positions.is_cuda:
            return self._step(*given)
        state: list[Any] = [(t.data_ptr(), t.dtype) for t in (*self.model.parameters(), *self.model.buffers())]
        # Kernels read parameters where they lie, but tables are made of them.
        tables = [getattr(m, "table", None) for m in self.model.modules()]
        state += [table.seen() for table in tables if isinstance(table, RadialTable)]
        key = (backends.setting(), [(t.dtype, t.device) for t in given], state)
        if self._captured is None or self._captured.key != key:
            self._captured = _Captured(self._step, given, key)
        return self._captured(given)

    def _step(self, positions: Tensor, offsets: Tensor | None = None) -> list[Tensor]:
        sender, receiver = self.graph.sender, self.graph.receiver
        vec = positions.index_select(0, sender).sub_(positions.index_select(0, receiver))
        if offsets is not None:
            vec += offsets
        energies, g = self._energies(vec)
        forces = torch.zeros_like(positions).index_add_(0, receiver, g).index_add_(0, sender, g, alpha=-1)
        return [energies.sum(dtype=torch.float64), forces, vec, g]

    def _energies(self, vec: Tensor) -> tuple[Tensor, Tensor]:
        if not (isinstance(self.model, WholeModel) and packs(vec)):
            return self._by_autograd(vec)
        config, weights = self.model.whole()
        # Packed again when a parameter is another tensor, has other data, or was written to.
        versions = [(w._version, w.data_ptr()) for w in weights]
        same = len(weights) == len(self._packed_of) and all(map(is_, weights, self._packed_of))
        if not same or versions != self._versions:
            self._packed = pack(config, weights)
            self._packed_of, self._versions = weights, versions
        return evaluate_packed(config, vec, self._plans, self._packed)

    def _by_autograd(self, vec: Tensor) -> tuple[Tensor, Tensor]:
        dtype = next(self.model.parameters()).dtype
        if vec.dtype is not dtype:
            raise ShapeError(f"the weights are {dtype}, the positions {vec.dtype}; use one dtype.")
        with torch.enable_grad():
            inner = vec.detach().requires_grad_()
            energies = self.model(self.species, inner, self.graph.edge_index, self.graph)
            (g,) = torch.autograd.grad(energies.sum(), inner, allow_unused=True, materialize_grads=True)
        return energies.detach(), g


class _Captured:
    """A step as a CUDA graph, for inputs of one kind; the step itself where it cannot be captured."""

    def __init__(self, step: Callable[..., list[Tensor]], like: list[Tensor], key: Any) -> None:
        self.step, self.key, self.graph = step, key, torch.cuda.CUDAGraph()
        self.inputs = [t.clone() for t in like]
        with torch.cuda.device(like[0].device):
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):  # kernels are compiled and loaded, plans made
                    step(*self.inputs)
            torch.cuda.current_stream().wait_stream(side)
            try:
                with torch.cuda.graph(self.graph):
                    self.results = step(*self.inputs)
            except RuntimeError as reason:
                self.inputs = []
                warnings.warn(
                    f"the step cannot be captured in a CUDA graph and runs as it is: {str(reason).splitlines()[0]}",
                    stacklevel=4,
                )

    def __call__(self, given: list[Tensor]) -> list[Tensor]:
        if not self.inputs:
            return self.step(*given)
        for mine, tensor in zip(self.inputs, given, strict=True):
            mine.copy_(tensor)
        self.graph.replay()
        return [t.clone() for t in self.results]
