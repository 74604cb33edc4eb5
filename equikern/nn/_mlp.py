"""`MLP`: the bias-free network of scalars that NequIP and MACE use, of edge lengths and as readout."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from equikern.errors import ProgramError


class MLP(torch.nn.Module):
    """x <- gain * silu(x W / sqrt(fan in)) layer by layer, the last one linear: (..., sizes[0]) to (..., sizes[-1]).

    Weights start with variance 1 (`uniform`, or normal), so that activations do too if gain is 1 / sqrt(E[silu(z)^2]).
    Sources: e3nn's `FullyConnectedNet` (gain 1.679...), NequIP's `ScalarMLPFunction` (sqrt(2), uniform).

    >>> MLP((8, 64, 96), gain=2**0.5)(torch.zeros(5, 8)).shape
    torch.Size([5, 96])
    """

    def __init__(self, sizes: Sequence[int], *, gain: float, uniform: bool = False) -> None:
        super().__init__()
        if len(sizes) < 2 or min(sizes) < 1:
            raise ProgramError(f"a network has two sizes or more, each at least 1; got {tuple(sizes)}.")
        self.sizes, self.gain = tuple(sizes), gain
        self.weights = torch.nn.ParameterList(torch.empty(a, b) for a, b in itertools.pairwise(sizes))
        for weight in self.weights:
            torch.nn.init.uniform_(weight, -(3**0.5), 3**0.5) if uniform else torch.nn.init.normal_(weight)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., sizes[0]) -> (..., sizes[-1])."""
        *hidden, last = self.weights
        scale = 1.0
        for weight in hidden:
            # Scaled where it is smaller: the weight, not the rows.
            x = torch.nn.functional.silu(x @ (weight * (scale * weight.shape[0] ** -0.5)))
            scale = self.gain
        return x @ (last * (scale * last.shape[0] ** -0.5))

    def extra_repr(self) -> str:
        return f"{self.sizes}, gain {self.gain:g}"
