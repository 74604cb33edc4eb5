"""A call of the spline op on a device: its buffers, and what a kernel reads of the pieces."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import nullcontext
from functools import lru_cache

import torch
from torch import Tensor

from equikern.backends._spline import POLYNOMIALS, rows_of

# Starts the kernel: (r (E,), pieces as `pieces_of` has them, b (E, 8), knot (E,))
Start = Callable[[Tensor, Tensor, Tensor, Tensor], None]


def spline(start: Start, r: Tensor, breaks: list[float], intervals: list[int]) -> tuple[Tensor, Tensor]:
    """b (E, 8) and knot (E,) that a kernel writes. See ops/spline.py."""
    edges = r.shape[0]
    b, knot = r.new_empty(edges, len(POLYNOMIALS)), r.new_empty(edges, dtype=torch.int64)
    if edges:
        with torch.cuda.device(r.device) if r.is_cuda else nullcontext():
            start(r.contiguous(), pieces_of(tuple(breaks), tuple(intervals), r.device), b, knot)
    return b, knot


@lru_cache(maxsize=256)
def pieces_of(breaks: tuple[float, ...], intervals: tuple[int, ...], device: torch.device) -> Tensor:
    """Of each piece where it begins, its intervals per unit, its last interval, its first row; then the last break.

    Float64, kept for each device.
    """
    numbers: list[float] = []
    row = 0
    for (begin, end), count in zip(itertools.pairwise(breaks), intervals, strict=True):
        numbers += [begin, count / (end - begin), count - 1, row]
        row += rows_of(count)
    return torch.tensor([*numbers, breaks[-1]], dtype=torch.float64, device=device)
