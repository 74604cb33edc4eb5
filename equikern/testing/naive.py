"""A model's predictions with nothing clever about them: every pair in every image, then autograd. An oracle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def edges(positions: Tensor, cutoff: float, cell: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """edge_index (2, E), senders then receivers, and offsets (E, 3) = shifts @ cell of all pairs closer than cutoff."""
    x, shifts = positions.detach(), positions.new_zeros(1, 3)
    if cell is not None:
        inverse = torch.linalg.inv(cell)
        spread = (x @ inverse).amax(0) - (x @ inverse).amin(0)
        most = (cutoff * inverse.norm(dim=0) + spread).ceil().long().tolist()
        shifts = torch.cartesian_prod(*[torch.arange(-n, n + 1).to(x) for n in most]) @ cell
    away = x[None, :, None] + shifts - x[:, None, None]  # receiver, sender, image
    close = away.norm(dim=3) < cutoff
    close &= ~(torch.eye(len(x), dtype=torch.bool)[:, :, None] & (shifts.norm(dim=1) == 0))
    receiver, sender, image = close.nonzero(as_tuple=True)
    return torch.stack([sender, receiver]), shifts[image]


@dataclass
class Naive:
    """`predict` of a model with the interface of `equikern.models`, for elements by atomic number. Also `shuffled`."""

    model: Callable[..., Tensor]
    elements: Sequence[int]
    cutoff: float

    def predict(self, numbers: Tensor, positions: Tensor, cell: Tensor | None = None) -> dict[str, Tensor]:
        """energy (), energies (N,), forces (N, 3), and stress (3, 3) with a cell."""
        return self.of_edges(numbers, positions, cell, *edges(positions, self.cutoff, cell))

    def shuffled(self, numbers: Tensor, positions: Tensor, cell: Tensor | None, seed: int) -> dict[str, Tensor]:
        """The same with the edges in another order."""
        index, offsets = edges(positions, self.cutoff, cell)
        order = torch.randperm(len(offsets), generator=torch.Generator().manual_seed(seed))
        return self.of_edges(numbers, positions, cell, index[:, order], offsets[order])

    def of_edges(
        self, numbers: Tensor, positions: Tensor, cell: Tensor | None, edge_index: Tensor, offsets: Tensor
    ) -> dict[str, Tensor]:
        """The prediction for these edges."""
        species = torch.tensor([list(self.elements).index(int(z)) for z in numbers])
        x = positions.detach().clone().requires_grad_()
        strain = torch.zeros(3, 3, dtype=x.dtype, requires_grad=True)
        sender, receiver = edge_index
        vec = x[sender] - x[receiver] + offsets
        vec = vec + vec @ (strain + strain.T) / 2
        absolute = {"positions": x, "batch": None} if getattr(self.model, "uses_positions", False) else {}
        energies = self.model(species, vec, edge_index, **absolute)
        energy = energies.double().sum()
        slope, virial = torch.autograd.grad(energy, [x, strain], allow_unused=True, materialize_grads=True)
        found = {"energy": energy.detach(), "energies": energies.detach(), "forces": -slope}
        return found if cell is None else found | {"stress": virial / torch.linalg.det(cell).abs()}
