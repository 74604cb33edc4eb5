"""Products in every connection mode on the CPU, row by row: runs of channels in C++, matrix products over channels.

What keeps its channels (`uvu uvv uuu uvuv uvu<v`) goes straight from x, y and w to z. What mixes them is coupled into
intermediate channels, a block of rows at a time so that they stay in the cache, and multiplied by the weights: by
torch's matrix product where all rows share them, by a kernel that reads them once where every row has its own.
Operands of other row kinds are gathered first, and results summed into their rows.
"""

from __future__ import annotations

from functools import cache
from math import prod

import torch
from torch import Tensor

from equikern.backends import by_edge
from equikern.backends._modes import Mixing, cut, segments
from equikern.backends.extension import _C
from equikern.backends.mixing import gather_weights, multiply, scatter_weights
from equikern.backends.segments import turn_segment
from equikern.backends.threads import threads
from equikern.program import SHARED, Irreps, Program
from equikern.program.program import W, X, Y, Z

BLOCK = 1 << 21  # bytes of intermediate channels at once


def sweep(
    base: Program, operands: list[Tensor], index: list[Tensor], open: dict[int, int], *, fixed: float = 1.0
) -> list[Tensor]:
    """dF/da for each open slot; `operands` are x y w g, `fixed` the weight of unweighted paths (0 or 1)."""
    given = [a if a.ndim == 2 else None for a in operands]
    like = next(a for a in given if a is not None)
    where = by_edge.places(base, index, like)
    edges = by_edge.edges(base, given, where, open)
    by_edge.check(base, given, edges, like)
    weighted = base.dims[W] > 0
    reads = {X: (Y, W, Z), Y: (X, W, Z), W: (X, Y, Z), Z: (X, Y, W)}
    asked = [s for s in open if edges and all(given[k] is not None or (k == W and not weighted) for k in reads[s])]
    rows = [None if a is None else by_edge.gathered(base, s, a, where, edges) for s, a in enumerate(given)]
    found = _Rows(base, rows, edges, fixed != 0.0).run(asked) if asked else {}
    return [by_edge.summed(base, s, found.get(s), where, n, like) for s, n in open.items()]


@cache
def _kernels(text: str, by_row: bool, fixed: bool) -> tuple[_C.Coupling | None, list[tuple[Mixing, _C.Coupling]]]:
    from equikern.program import parse

    program = parse(text)
    plan = cut(text, by_row, fixed)
    x, y, z = (segments(program.operands[s].irreps) for s in (X, Y, Z))  # type: ignore[arg-type]
    turn = program.layout == "mul_ir"
    direct = _C.Coupling(x, y, z, turn, turn, program.dims[W], plan.direct) if plan.direct else None
    mixings = []
    for mixing in plan.mixings:
        intermediate = [(mixing.width, z[mixing.out][1])]
        mixings.append((mixing, _C.Coupling(x, y, intermediate, False, False, 0, mixing.coupled)))
    return direct, mixings


def _pointer(a: Tensor | None, row: int = 0) -> int:
    return 0 if a is None else a.data_ptr() + row * a.stride(0) * a.element_size()


class _Rows:
    """One call: all operands by edge, weights by edge or one row."""

    def __init__(self, base: Program, operands: list[Tensor | None], edges: int, fixed: bool) -> None:
        self.base, self.edges, self.turn = base, edges, base.layout == "mul_ir"
        self.operands = operands
        self.like = next(a for a in operands if a is not None)
        self.double = self.like.dtype == torch.float64
        self.shared = base.rows[W] == SHARED
        self.direct, self.mixings = _kernels(base.text, not self.shared, fixed)
        self._scratch: dict[str, Tensor] = {}

    def run(self, asked: list[int]) -> dict[int, Tensor]:
        """The results by edge (dw one row if weights are shared)."""
        rows = {s: 1 if s == W and self.shared else self.edges for s in asked}
        whole = {s: self.like.new_empty(n, self.base.dims[s]) for s, n in rows.items()}
        if self.direct is not None:
            x, y, w, g = (_pointer(a) for a in self.operands)
            found = [_pointer(whole.get(s)) for s in (Z, X, Y, W)]
            self.direct.run(
                self.double, self.edges, self.shared, False, [x, y, w, g if asked != [Z] else 0], found, threads()
            )
        else:
            for slot, a in whole.items():
                if slot != W or not self.mixings:
                    a.zero_()
        if self.mixings:
            self._mix(whole)
        return whole

    def _mix(self, whole: dict[int, Tensor]) -> None:
        """Add the mixing paths, a block of rows at a time; x and y of a block are turned once for all of them."""
        mixes = [_Mix(self, mixing, coupling, whole) for mixing, coupling in self.mixings]
        widest = max(mix.mixing.width * mix.dim for mix in mixes) * self.like.element_size()
        step = max(16, BLOCK // widest)
        for first in range(0, self.edges, step):
            last = min(first + step, self.edges)
            inside = [self._inside(s, first, last) for s in (X, Y)]
            grads = [self._grad(s, whole.get(s), first, last) for s in (X, Y)]
            for mix in mixes:
                mix.block(first, last, inside, grads)
            for slot, grad in zip((X, Y), grads, strict=True):
                if grad is not None and self._turns(slot):
                    for n, columns in enumerate(self.irreps(slot).slices()):
                        self.segment(slot, n, grad[:, columns], whole[slot][first:last, columns], split=False, add=True)
        for mix in mixes:
            mix.finish()

    def irreps(self, slot: int) -> Irreps:
        """Of an operand."""
        return self.base.operands[slot].irreps  # type: ignore[return-value]

    def _turns(self, slot: int) -> bool:
        return self.turn and any(mul > 1 and ir.dim > 1 for mul, ir in self.irreps(slot))

    def _inside(self, slot: int, first: int, last: int) -> Tensor:
        """Rows of x or y, components outermost."""
        a = self.operands[slot]
        assert a is not None
        if not self._turns(slot):
            return a[first:last]
        turned = self.scratch(f"inside {slot}", last - first, a.shape[1])
        for n, columns in enumerate(self.irreps(slot).slices()):
            self.segment(slot, n, a[first:last, columns], turned[:, columns], split=True)
        return turned

    def _grad(self, slot: int, whole: Tensor | None, first: int, last: int) -> Tensor | None:
        """Where the gradient of these rows is added up, components outermost."""
        if whole is None or not self._turns(slot):
            return None if whole is None else whole[first:last]
        return self.scratch(f"grad {slot}", last - first, whole.shape[1]).zero_()

    def scratch(self, name: str, *shape: int) -> Tensor:
        """Memory for a block, the same in every block: fresh pages would cost as much as the arithmetic."""
        size = prod(shape)
        held = self._scratch.get(name)
        if held is None or held.numel() < size:
            held = self._scratch[name] = self.like.new_empty(size)
        return held[:size].view(shape)

    def segment(self, slot: int, n: int, source: Tensor, to: Tensor, *, split: bool, add: bool = False) -> None:
        """Copy or add rows of a segment, components outermost after `split`, else channels."""
        mul, ir = self.irreps(slot)[n]
        turn_segment((mul, ir.dim), source, to, turn=self.turn, split=split, add=add)


class _Mix:
    """The mixing paths into one segment of z."""

    def __init__(self, rows: _Rows, mixing: Mixing, coupling: _C.Coupling, whole: dict[int, Tensor]) -> None:
        self.rows, self.mixing, self.coupling = rows, mixing, coupling
        self.z, self.dw = whole.get(Z), whole.get(W)
        self.w, self.g = rows.operands[W], rows.operands[Z]
        self.mul, ir = rows.irreps(Z)[mixing.out]
        self.dim = ir.dim
        self.columns = rows.irreps(Z).slices()[mixing.out]
        self.weights = gather_weights(self.w, mixing.parts, self.mul, rows.like) if rows.shared else None
        self.total = rows.like.new_zeros(self.mul, mixing.width) if rows.shared and self.dw is not None else None

    def block(self, first: int, last: int, inside: list[Tensor], grads: list[Tensor | None]) -> None:
        """Rows [first, last): z and dw, and what dx and dy get."""
        rows, n, backward = self.rows, last - first, any(grad is not None for grad in grads)
        wide, narrow = (n, self.dim, self.mixing.width), (n, self.dim, self.mul)
        a = z = da = g = None
        if self.z is not None or self.dw is not None:
            a = rows.scratch("a", *wide)
            self._couple(inside, None, a, [None, None])
        if self.z is not None:
            z = rows.scratch("z", *narrow)
        if backward:
            da = rows.scratch("da", *wide)
        if backward or self.dw is not None:
            assert self.g is not None
            g = rows.scratch("g", *narrow)
            rows.segment(Z, self.mixing.out, self.g[first:last, self.columns], g.flatten(1), split=True)
        if self.weights is not None:
            self._products(a, g, z, da)
        else:
            self._by_row(first, a, g, z, da)
        if z is not None:
            to = self.z[first:last, self.columns]  # type: ignore[index]
            rows.segment(Z, self.mixing.out, z.flatten(1), to, split=False, add=rows.direct is not None)
        if da is not None:
            self._couple(inside, da, None, grads)

    def _couple(self, inside: list[Tensor], g: Tensor | None, a: Tensor | None, grads: list[Tensor | None]) -> None:
        """Form the intermediate channels a, or add to the gradients of x and y from their cotangent g."""
        x, y = inside
        given = [_pointer(x), _pointer(y), 0, _pointer(g)]
        self.coupling.run(
            self.rows.double, len(x), True, a is None, given, [_pointer(a), *map(_pointer, grads), 0], threads()
        )

    def _products(self, a: Tensor | None, g: Tensor | None, z: Tensor | None, da: Tensor | None) -> None:
        width, mul, weights = self.mixing.width, self.mul, self.weights
        assert weights is not None
        if z is not None and a is not None:
            multiply(a.view(-1, width), weights, z.view(-1, mul))
        if da is not None and g is not None:
            torch.mm(g.view(-1, mul), weights.t(), out=da.view(-1, width))
        if self.total is not None and a is not None and g is not None:
            self.total.addmm_(g.view(-1, mul).t(), a.view(-1, width))

    def _by_row(self, first: int, a: Tensor | None, g: Tensor | None, z: Tensor | None, da: Tensor | None) -> None:
        parts, some = self.mixing.parts, next(t for t in (a, da) if t is not None)
        paths = [(p.first, p.weights.start, p.channels) for p in parts if p.weights is not None]
        sizes = [len(some), self.dim, self.mixing.width, self.mul, self.rows.base.dims[W]]
        given = [_pointer(a), _pointer(self.w, first), _pointer(g)]
        mix = _C.mix_f64 if self.rows.double else _C.mix_f32
        mix(paths, sizes, given, [_pointer(z), _pointer(da), _pointer(self.dw, first)], threads())
        for part in parts:
            if part.weights is None:  # uuw without weights sums its channels
                taken = slice(part.first, part.first + part.channels)
                if z is not None and a is not None:
                    z += a[:, :, taken].sum(2, keepdim=True)
                if da is not None and g is not None:
                    da[:, :, taken] = g

    def finish(self) -> None:
        """Put the gradient of shared weights away."""
        if self.total is not None and self.dw is not None:
            scatter_weights(self.total.t(), self.mixing.parts, self.dw)
