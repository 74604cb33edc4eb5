"""A radial network as equivariant potentials have it: Bessel functions, two layers, a smooth cutoff."""

from __future__ import annotations

import torch
from torch import Tensor

from equikern.ops.radial import bessel, polynomial_cutoff


class RadialNetwork(torch.nn.Module):
    """Lengths (E,) to weights (E, width); with `species`, (E,) integers of both ends are read too. Counts its calls."""

    def __init__(self, width: int, species: int = 0, *, hidden: int = 16, r_max: float = 5.0) -> None:
        super().__init__()
        self.r_max, self.calls = r_max, 0
        self.embed = torch.nn.Embedding(species, 8) if species else None
        self.net = torch.nn.Sequential(torch.nn.Linear(8, hidden), torch.nn.SiLU(), torch.nn.Linear(hidden, width))

    def forward(self, r: Tensor, sender: Tensor | None = None, receiver: Tensor | None = None) -> Tensor:
        """r (E,), species of sender and receiver (E,) -> (E, width)."""
        self.calls += 1
        basis = bessel(r, 8, self.r_max)
        if self.embed is not None:
            basis = basis * (1 + self.embed(sender) * self.embed(receiver).square())
        return self.net(basis) * polynomial_cutoff(r, self.r_max).unsqueeze(1)  # type: ignore[no-any-return]
