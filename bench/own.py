"""Potentials of `equikern.models` as the benches call other libraries' models: the input is made before."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import equikern
from equikern.graph import Neighbours, neighbours
from equikern.models import Potential


class Own(torch.nn.Module):
    """A potential, called with what `given` makes of atoms: neighbours are found before, their plan in the call."""

    def __init__(self, potential: Potential) -> None:
        super().__init__()
        self.potential = potential

    def given(self, atoms: Any) -> dict[str, Any]:
        """Numbers, positions, cell and edges of a periodic structure."""
        numbers, positions, cell = map(torch.tensor, (atoms.numbers, atoms.positions, atoms.cell.array))
        edges = neighbours(positions, self.potential.cutoff, cell, True)
        return {"numbers": numbers, "positions": positions, "cell": cell, "edges": edges}

    def forward(self, given: dict[str, Any]) -> dict[str, Tensor]:
        """Energy, forces and stress, with derivatives in training."""
        edges = given["edges"]
        fresh = Neighbours(edges.edge_index, edges.shifts, edges.num_nodes)
        with torch.set_grad_enabled(self.training):
            return self.potential(given["numbers"], given["positions"], given["cell"], pbc=True, edges=fresh)  # type: ignore[no-any-return]


class Cluster(Own):
    """Atoms without a cell, on a backend."""

    def __init__(self, potential: Potential, backend: str) -> None:
        super().__init__(potential)
        self.backend, self.edges = backend, 0

    def given(self, atoms: Any) -> dict[str, Any]:
        """Numbers, positions and edges."""
        numbers, positions = map(torch.tensor, (atoms.numbers, atoms.positions))
        edges = neighbours(positions, self.potential.cutoff)
        self.edges = edges.edge_index.shape[1]
        return {"numbers": numbers, "positions": positions, "edges": edges}

    def forward(self, given: dict[str, Any]) -> dict[str, Tensor]:
        """Energy and forces, with derivatives in training."""
        edges = given["edges"]
        fresh = Neighbours(edges.edge_index, edges.shifts, edges.num_nodes)
        with torch.set_grad_enabled(self.training), equikern.backend(self.backend):
            return self.potential(given["numbers"], given["positions"], edges=fresh)  # type: ignore[no-any-return]


def own_results(out: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Energy and forces."""
    return out["energy"], out["forces"]
