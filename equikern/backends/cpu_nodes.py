"""Convolutions that mix channels by shared weights, on the CPU: the mixing commutes with the sum over edges.

What the edges of a node give is summed in intermediate channels; their matrix of weights is applied once a node. Where
y is one segment of scalars (`h` of a radial network), a node's sum of outer products is a small matrix product of its
own; else the channelwise sweep makes the sums.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from equikern.backends._modes import Part, mixes_all
from equikern.backends.cpu_modes import gather_weights, multiply, scatter_weights
from equikern.backends.cpu_rows import check, counts, graph
from equikern.backends.cpu_sweep import channelwise_sweep
from equikern.backends.extension import _C
from equikern.backends.segments import turn_segment
from equikern.backends.threads import threads
from equikern.errors import ShapeError
from equikern.program import EDGE, SHARED, Irrep, Irreps, Path, Program, Rows, parse, product_of_paths, wigner_3j
from equikern.program.program import W, X, Y, Z

BLOCK = 1 << 22  # bytes of nodes' matrices at once


@cache
def takes(text: str) -> bool:
    """Whether a program mixes channels by shared weights and sums over edges."""
    rows = parse(text).rows
    return mixes_all(text) and rows[Y] == EDGE and rows[Z] not in (EDGE, SHARED) and rows[X] != SHARED


def sweep(base: Program, operands: list[Tensor], index: list[Tensor], open: dict[int, int]) -> list[Tensor]:
    """dF/da for each open slot; `operands` are x y w g."""
    given = [a.contiguous() if a.ndim == 2 else None for a in operands]
    like = next(a for a in given if a is not None)
    sizes = counts(base, given, index, open)
    check(base, given, sizes, like)
    asked = [s for s in open if sizes[0] and all(given[k] is not None for k in (X, Y, W, Z) if k not in (s, Z))]
    asked = [s for s in asked if s == Z or given[Z] is not None]
    where = graph(base, index, sizes[0], sizes[2])[:3]  # no table
    call = _Call(base, given, index, where, sizes[:3], like)
    outer = len(base.operands[Y].irreps) == 1 and base.operands[Y].irreps[0].ir.l == 0  # type: ignore[arg-type,index]
    found = (call.outer(asked) if outer else call.staged(asked)) if asked else {}
    return [found[s] if s in found else like.new_zeros(n, base.dims[s]) for s, n in open.items()]


class Into(NamedTuple):
    """All paths into one segment of z: their intermediate channels (a node, before y's scalars) and weights."""

    out: int
    channels: int
    paths: tuple[Path, ...]
    parts: list[Part]


@cache
def _into(text: str, outer: bool) -> list[Into]:
    program = parse(text)
    found: dict[int, Into] = {}
    for path, columns in zip(program.paths, program.weight_slices, strict=True):
        m1, m2, _ = program.multiplicities(path)
        into = found.setdefault(path.out, Into(path.out, 0, (), []))
        turned = None if outer or m2 == 1 else (m1, m2)
        size = m1 if outer else m1 * m2
        into.parts.append(Part(into.channels * (m2 if outer else 1), m1 * m2, columns, turned))
        found[path.out] = into._replace(channels=into.channels + size, paths=(*into.paths, path))
    return list(found.values())


@cache
def _stage(text: str) -> tuple[Program, list[list[int]]]:
    """The channelwise program of the sums, x and z components outermost; the z segments of each `Into`.

    Every scalar channel v of y has an entry of its own.
    """
    program = parse(text)
    x, y = program.operands[X].irreps, program.operands[Y].irreps
    z = program.operands[Z].irreps
    singles = [(1, ir) for mul, ir in y for _ in range(mul)]  # type: ignore[union-attr]
    first = [sum(e.mul for e in y[:n]) for n in range(len(y))]  # type: ignore[index,arg-type,union-attr]
    middle: list[tuple[int, Irrep]] = []
    paths: list[Path] = []
    places: list[list[int]] = []
    for into in _into(text, False):
        places.append(list(range(len(middle), len(middle) + sum(y[p.in2].mul for p in into.paths))))  # type: ignore[index]
        for p in into.paths:
            for v in range(y[p.in2].mul):  # type: ignore[index]
                paths.append(Path(p.in1, first[p.in2] + v, len(middle), "uvu", p.scale, False))
                middle.append((x[p.in1].mul, z[p.out].ir))  # type: ignore[index]
    rows = Rows(x=program.rows[X], z=program.rows[Z])
    return product_of_paths(x, Irreps(singles), Irreps(middle), paths, rows=rows, layout="ir_mul"), places


class _Call:
    """One call, its operands checked."""

    def __init__(
        self,
        base: Program,
        given: list[Tensor | None],
        index: list[Tensor],
        graph: list[Tensor | None],
        counts: tuple[int, int, int],
        like: Tensor,
    ) -> None:
        self.base, self.text, self.index, self.like = base, base.text, index, like
        self.x, self.y, self.w, self.g = given
        self.x_index, self.ptr, self.order = graph
        self.edges, self.x_rows, self.nodes = counts
        self.turn = base.layout == "mul_ir"

    def irreps(self, slot: int) -> Irreps:
        """Of an operand."""
        return self.base.operands[slot].irreps  # type: ignore[return-value]

    def turned(self, slot: int, a: Tensor, split: bool) -> Tensor:
        """All segments of rows, components outermost after `split`, else as the program has them."""
        if not self.turn:
            return a
        to = torch.empty_like(a)
        for (mul, ir), columns in zip(self.irreps(slot), self.irreps(slot).slices(), strict=True):
            turn_segment((mul, ir.dim), a[:, columns], to[:, columns], turn=True, split=split)
        return to

    def segment(self, into: Into, rows: Tensor, part: Tensor, *, split: bool) -> None:
        """One segment of rows of z from or to `part` (rows, components * channels)."""
        mul, ir = self.irreps(Z)[into.out]
        whole = rows[:, self.irreps(Z).slices()[into.out]]
        ends = (whole, part) if split else (part, whole)
        turn_segment((mul, ir.dim), *ends, turn=self.turn, split=split)

    def _weights(self, into: Into) -> Tensor:
        return gather_weights(self.w, into.parts, self.irreps(Z)[into.out].mul, self.like)

    # --- sums by the channelwise sweep

    def staged(self, asked: list[int]) -> dict[int, Tensor]:
        """Any y."""
        program, places = _stage(self.text)
        y = self._y(self.y, True)
        x = None if self.x is None else self.turned(X, self.x, True)
        absent = self.like.new_empty(0)
        found: dict[int, Tensor] = {}
        middle = None
        if Z in asked or W in asked:
            (middle,) = channelwise_sweep(program, [x, y, absent, absent], self.index, {Z: self.nodes})  # type: ignore[list-item]
        if Z in asked:
            found[Z] = self.like.new_zeros(self.nodes, self.base.dims[Z])
        if W in asked:
            found[W] = self.like.new_empty(1, self.base.dims[W])
        inputs = [s for s in asked if s in (X, Y)]
        cotangent = self.like.new_empty(self.nodes, program.dims[Z]) if inputs else None
        for into, segments in zip(_into(self.text, False), places, strict=True):
            self._mix_staged(into, [program.operands[Z].irreps.slices()[n] for n in segments], middle, cotangent, found)  # type: ignore[union-attr]
        if cotangent is not None:
            sizes = {X: self.x_rows, Y: self.edges}
            read = [absent if a is None else a for a in (x, y, None, cotangent)]
            for slot, a in zip(
                inputs, channelwise_sweep(program, read, self.index, {s: sizes[s] for s in inputs}), strict=True
            ):
                found[slot] = self.turned(X, a, False) if slot == X else self._y(a, False)  # type: ignore[assignment]
        return found

    def _y(self, y: Tensor | None, split: bool) -> Tensor | None:
        """Channels of y outermost, as the stage's single entries have them, or back."""
        if y is None or self.turn or all(mul == 1 or ir.dim == 1 for mul, ir in self.irreps(Y)):
            return y
        to = torch.empty_like(y)
        for (mul, ir), columns in zip(self.irreps(Y), self.irreps(Y).slices(), strict=True):
            turn_segment((mul, ir.dim), y[:, columns], to[:, columns], turn=True, split=not split)
        return to

    def _mix_staged(
        self,
        into: Into,
        segments: list[slice],
        middle: Tensor | None,
        cotangent: Tensor | None,
        found: dict[int, Tensor],
    ) -> None:
        mul, ir = self.irreps(Z)[into.out]
        channels = [(s.stop - s.start) // ir.dim for s in segments]
        weights = self._weights(into)
        a = g = None
        if middle is not None:
            a = torch.cat([middle[:, s].view(-1, ir.dim, c) for s, c in zip(segments, channels, strict=True)], 2)
            a = a.view(-1, into.channels)
        if Z in found and a is not None:
            z = self.like.new_empty(len(a), mul)
            multiply(a, weights, z)
            self.segment(into, found[Z], z.view(self.nodes, -1), split=False)
        if cotangent is not None or W in found:
            g = self.like.new_empty(self.nodes, ir.dim * mul)
            self.segment(into, self.g, g, split=True)  # type: ignore[arg-type]
            g = g.view(-1, mul)
        if W in found and a is not None and g is not None:
            scatter_weights((g.t() @ a).t(), into.parts, found[W])
        if cotangent is not None and g is not None:
            da = (g @ weights.t()).view(self.nodes, ir.dim, into.channels)
            for s, part in zip(segments, da.split(channels, 2), strict=True):
                cotangent[:, s].view(self.nodes, ir.dim, -1).copy_(part)

    # --- sums of outer products

    def outer(self, asked: list[int]) -> dict[int, Tensor]:
        """y one segment of scalars."""
        try:
            _C.check_plan(self.edges, self.nodes, self.ptr.data_ptr(), self.order.data_ptr())  # type: ignore[union-attr]
            x = None if self.x is None else self.turned(X, self.x, True)
            if x is not None and self.x_index is not None:
                x = x.index_select(0, self.x_index)
        except (IndexError, RuntimeError) as error:
            raise ShapeError(f"{error}\n  program   {self.base}") from None
        sizes = {X: self.edges, Y: self.edges, W: 1, Z: self.nodes}
        found = {s: self.like.new_zeros(sizes[s], self.base.dims[s]) for s in asked}
        for into in _into(self.text, True):
            _Outer(self, into, x, found).run()
        if X in found:
            if self.x_index is not None:
                rows = self.like.new_zeros(self.x_rows, self.base.dims[X])
                found[X] = rows.index_add_(0, self.x_index, found[X])
            found[X] = self.turned(X, found[X], False)
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
