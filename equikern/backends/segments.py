"""Segments of rows as matrices over channels: copies that turn (channel, component) into (component, channel)."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from equikern.backends.extension import _C
from equikern.backends.threads import threads
from equikern.program import parse


class Segment(NamedTuple):
    """Columns of `mul` channels with `dim` components."""

    start: int
    mul: int
    dim: int


@cache
def segments(text: str, slot: int) -> tuple[bool, list[Segment]]:
    """Whether channels are outermost, and the segments of an operand."""
    program = parse(text)
    irreps = program.operands[slot].irreps
    found = [Segment(s.start, e.mul, e.ir.dim) for e, s in zip(irreps, irreps.slices(), strict=True)]  # type: ignore[union-attr,arg-type]
    return program.layout == "mul_ir", found


class Side:
    """The segments of x or z as matrices (rows * components, channels), each made or filled once."""

    def __init__(self, text: str, slot: int, a: Tensor) -> None:
        self.a, self.rows = a, a.shape[0]
        self.turn, self.segments = segments(text, slot)
        self.made: dict[int, Tensor] = {}

    def matrix(self, segment: int) -> Tensor:
        """(rows * components, channels) of a segment."""
        made = self.made.get(segment)
        if made is None:
            made = self._empty(segment)
            if self.segments[segment].dim > 1:
                self._move(segment, made, split=True)
        return made

    def into(self, segment: int) -> tuple[Tensor, bool]:
        """(rows * components, channels) of a segment to fill, and whether it holds something already."""
        made = self.made.get(segment)
        return (self._empty(segment), False) if made is None else (made, True)

    def finished(self) -> Tensor:
        """The rows, zero where nothing was filled."""
        for segment, (start, mul, dim) in enumerate(self.segments):
            made = self.made.get(segment)
            if made is None:
                self.a.narrow(1, start, mul * dim).zero_()
            elif dim > 1:
                self._move(segment, made, split=False)
        return self.a

    def _empty(self, segment: int) -> Tensor:
        start, mul, dim = self.segments[segment]
        made = self.a.narrow(1, start, mul) if dim == 1 else self.a.new_empty(self.rows * dim, mul)
        self.made[segment] = made
        return made

    def _move(self, segment: int, made: Tensor, *, split: bool) -> None:
        start, mul, dim = self.segments[segment]
        rows, parts = self.a.narrow(1, start, mul * dim), made.view(self.rows, dim * mul)
        ends = (rows, parts) if split else (parts, rows)
        turn_segment((mul, dim), *ends, turn=self.turn, split=split)


def turned(text: str, slot: int, a: Tensor, *, split: bool, back: bool = False) -> Tensor:
    """Rows with components outermost in each segment (`split`), else channels; `back`: as the program has them."""
    mul_ir, found = segments(text, slot)
    if mul_ir != split or all(mul == 1 or dim == 1 for _, mul, dim in found):
        return a
    to = torch.empty_like(a)
    for start, mul, dim in found:
        ends = a.narrow(1, start, mul * dim), to.narrow(1, start, mul * dim)
        turn_segment((mul, dim), *ends, turn=True, split=split != back)
    return to


def turn_segment(
    sizes: tuple[int, int], source: Tensor, to: Tensor, *, turn: bool, split: bool, add: bool = False
) -> None:
    """Copy or add rows of a segment (mul, 2l+1), where `turn`ed components outermost after `split`, else channels."""
    if _C is None or not source.is_cpu or source.dtype not in (torch.float32, torch.float64):
        turn_copy(sizes, source, to, turn=turn, split=split, add=add)
        return
    ends = (source.data_ptr(), source.stride(0)), (to.data_ptr(), to.stride(0))
    run = _C.turn_f64 if source.dtype == torch.float64 else _C.turn_f32
    run((len(to), *sizes), turn, split, add, *ends, threads())


def turn_copy(
    sizes: tuple[int, int], source: Tensor, to: Tensor, *, turn: bool, split: bool, add: bool = False
) -> None:
    """`turn_segment` as one strided copy of torch's, on any device."""
    if turn:
        shape = sizes if split else sizes[::-1]
        source, to = source.view(len(to), *shape).transpose(1, 2), to.view(len(to), *shape[::-1])
    if add:
        to.add_(source)
    else:
        to.copy_(source)
