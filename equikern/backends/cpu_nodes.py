"""Convolutions that mix channels by shared weights, on the CPU: the mixing commutes with the sum over edges.

What the edges of a node give is summed in intermediate channels; their matrix of weights is applied once a node. Where
y is one segment of scalars (`h` of a radial network), a node's sum of outer products is a small matrix product of its
own; else the channelwise sweep makes the sums (`staged`).
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from equikern.backends import staged
from equikern.backends.cpu_rows import check, counts, graph
from equikern.backends.cpu_sweep import channelwise_sweep
from equikern.backends.extension import _C
from equikern.backends.mixing import Part, gather_weights, mixes_all, multiply, scatter_weights
from equikern.backends.segments import turn_segment, turned
from equikern.backends.threads import threads
from equikern.errors import ShapeError
from equikern.program import EDGE, SHARED, Irreps, Path, Program, parse, wigner_3j
from equikern.program.program import W, X, Y, Z

BLOCK = 1 << 22  # bytes of nodes' matrices at once


@cache
def takes(text: str) -> bool:
    """Whether a program mixes channels by shared weights and sums over edges."""
    rows = parse(text).rows
    return mixes_all(text) and rows[Y] == EDGE and rows[Z] not in (EDGE, SHARED) and rows[X] != SHARED


def sweep(base: Program, operands: list[Tensor], index: list[Tensor], open: dict[int, int]) -> list[Tensor]:
    """dF/da for each open slot; `operands` are x y w g."""
    irreps_y = base.operands[Y].irreps
    if len(irreps_y) != 1 or irreps_y[0].ir.l != 0:  # type: ignore[arg-type,index]
        return staged.sweep(base, operands, index, open, channelwise_sweep)
    given = [a.contiguous() if a.ndim == 2 else None for a in operands]
    like = next(a for a in given if a is not None)
    sizes = counts(base, given, index, open)
    check(base, given, sizes, like)
    asked = [s for s in open if sizes[0] and all(given[k] is not None for k in (X, Y, W, Z) if k not in (s, Z))]
    asked = [s for s in asked if s == Z or given[Z] is not None]
    where = graph(base, index, sizes[0], sizes[2])[:3]  # no table
    found = _Call(base, given, where, sizes[:3], like).run(asked) if asked else {}
    return [found[s] if s in found else like.new_zeros(n, base.dims[s]) for s, n in open.items()]


class Into(NamedTuple):
    """All paths into one segment of z: their intermediate channels (a node, before y's scalars) and weights."""

    out: int
    channels: int
    paths: tuple[Path, ...]
    parts: list[Part]


@cache
def _into(text: str) -> list[Into]:
    program = parse(text)
    found: dict[int, Into] = {}
    for path, columns in zip(program.paths, program.weight_slices, strict=True):
        m1, m2, _ = program.multiplicities(path)
        into = found.setdefault(path.out, Into(path.out, 0, (), []))
        into.parts.append(Part(into.channels * m2, m1 * m2, columns, None))
        found[path.out] = into._replace(channels=into.channels + m1, paths=(*into.paths, path))
    return list(found.values())


class _Call:
    """One call, its operands checked."""

    def __init__(
        self,
        base: Program,
        given: list[Tensor | None],
        graph: list[Tensor | None],
        counts: tuple[int, int, int],
        like: Tensor,
    ) -> None:
        self.base, self.text, self.like = base, base.text, like
        self.x, self.y, self.w, self.g = given
        self.x_index, self.ptr, self.order = graph
        self.edges, self.x_rows, self.nodes = counts
        self.turn = base.layout == "mul_ir"

    def irreps(self, slot: int) -> Irreps:
        """Of an operand."""
        return self.base.operands[slot].irreps  # type: ignore[return-value]

    def segment(self, into: Into, rows: Tensor, part: Tensor, *, split: bool) -> None:
        """One segment of rows of z from or to `part` (rows, components * channels)."""
        mul, ir = self.irreps(Z)[into.out]
        whole = rows[:, self.irreps(Z).slices()[into.out]]
        ends = (whole, part) if split else (part, whole)
        turn_segment((mul, ir.dim), *ends, turn=self.turn, split=split)

    def _weights(self, into: Into) -> Tensor:
        return gather_weights(self.w, into.parts, self.irreps(Z)[into.out].mul, self.like)

    def run(self, asked: list[int]) -> dict[int, Tensor]:
        """The results asked for."""
        try:
            _C.check_plan(self.edges, self.nodes, self.ptr.data_ptr(), self.order.data_ptr())  # type: ignore[union-attr]
            x = None if self.x is None else turned(self.text, X, self.x, split=True)
            if x is not None and self.x_index is not None:
                x = x.index_select(0, self.x_index)
        except (IndexError, RuntimeError) as error:
            raise ShapeError(f"{error}\n  program   {self.base}") from None
        sizes = {X: self.edges, Y: self.edges, W: 1, Z: self.nodes}
        found = {s: self.like.new_zeros(sizes[s], self.base.dims[s]) for s in asked}
        for into in _into(self.text):
            _Outer(self, into, x, found).run()
        if X in found:
            if self.x_index is not None:
                rows = self.like.new_zeros(self.x_rows, self.base.dims[X])
                found[X] = rows.index_add_(0, self.x_index, found[X])
            found[X] = turned(self.text, X, found[X], split=True, back=True)
        return found


class _Outer:
    """The paths into one segment of z, a block of nodes at a time: each node has a matrix (2l+1, channels, scalars)."""

    def __init__(self, call: _Call, into: Into, x: Tensor | None, found: dict[int, Tensor]) -> None:
        self.call, self.into, self.x, self.found = call, into, x, found
        self.mul, ir = call.irreps(Z)[into.out]
        self.dim, self.scalars = ir.dim, call.base.dims[Y]
        self.runs, first = [], 0
        slices = call.irreps(X).slices()
        for path in into.paths:
            m1 = call.irreps(X)[path.in1].mul
            start = slices[path.in1].start
            self.runs += [(start + k * m1, m1, k * into.channels + first) for k in range(self.dim)]
            first += m1
        self.factors = [p.scale * float(wigner_3j(ir.l, 0, ir.l)[0, 0, 0]) for p in into.paths]
        self.width = into.channels * self.scalars
        self.weights = self._scaled(call._weights(into))

    def _scaled(self, matrix: Tensor) -> Tensor:
        """(channels * scalars, channels of z), each path by its factor; a path's 3j symbol is a multiple of one."""
        if all(abs(factor - 1) < 1e-15 for factor in self.factors):
            return matrix
        sizes = [part.channels for part in self.into.parts]
        pieces = zip(matrix.split(sizes), self.factors, strict=True)
        return torch.cat([piece * factor for piece, factor in pieces])

    def run(self) -> None:
        """All nodes."""
        call, found = self.call, self.found
        step = max(1, BLOCK // (self.dim * self.width * call.like.element_size()))
        step = min(step, call.nodes)
        m = call.like.new_empty(step, self.dim, self.width) if Z in found or W in found else None
        dm = call.like.new_empty(step, self.dim, self.width) if X in found or Y in found else None
        part = call.like.new_empty(step, self.dim * self.mul)
        total = call.like.new_zeros(self.mul, self.width) if W in found else None
        for first in range(0, call.nodes, step):
            last = min(first + step, call.nodes)
            n = last - first
            rows = part[:n]
            if m is not None:
                self._kernel(first, last, None, m)
            if Z in found and m is not None:
                multiply(m[:n].view(-1, self.width), self.weights, rows.view(-1, self.mul))
                call.segment(self.into, found[Z][first:last], rows, split=False)
            if dm is None and total is None:
                continue
            call.segment(self.into, call.g[first:last], rows, split=True)  # type: ignore[index]
            g = rows.view(-1, self.mul)
            if total is not None and m is not None:
                total.addmm_(g.t(), m[:n].view(-1, self.width))
            if dm is not None:
                torch.mm(g, self.weights.t(), out=dm[:n].view(-1, self.width))
                self._kernel(first, last, dm, None)
        if total is not None:
            scatter_weights(self._scaled(total.t()), self.into.parts, found[W])

    def _kernel(self, first: int, last: int, g: Tensor | None, m: Tensor | None) -> None:
        call = self.call
        results = [None, None] if g is None else [self.found.get(X), self.found.get(Y)]
        sizes = [first, last, call.base.dims[X], self.scalars, self.dim * self.into.channels]
        given = [0 if a is None else a.data_ptr() for a in (self.x, call.y, g)]
        out = [0 if a is None else a.data_ptr() for a in (m, *results)]
        run = _C.outer_f64 if call.like.dtype == torch.float64 else _C.outer_f32
        run(self.runs, sizes, (call.ptr.data_ptr(), call.order.data_ptr()), given, out, threads())  # type: ignore[union-attr]
