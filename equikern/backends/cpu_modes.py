"""Products in every connection mode on the CPU, row by row: runs of channels in C++, matrix products over channels.

What keeps its channels (`uvu uvv uuu uvuv uvu<v`) goes straight from x, y and w to z. What mixes them is coupled into
intermediate channels, a block of rows at a time so that they stay in the cache, and multiplied by the weights: by
torch's matrix product where all rows share them, by a kernel that reads them once where every row has its own.
Operands of other row kinds are gathered first, and results summed into their rows.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from equikern.backends._modes import Mixing, cut, segments
from equikern.backends.extension import _C
from equikern.backends.threads import threads
from equikern.errors import ShapeError
from equikern.program import EDGE, SHARED, Irreps, Program
from equikern.program.program import W, X, Y, Z

BLOCK = 1 << 20  # bytes of intermediate channels at once


def sweep(
    base: Program, operands: list[Tensor], index: list[Tensor], open: dict[int, int], *, fixed: float = 1.0
) -> list[Tensor]:
    """dF/da for each open slot; `operands` are x y w g, `fixed` the weight of unweighted paths (0 or 1)."""
    given = [a if a.ndim == 2 else None for a in operands]
    where = _where(base, index)
    edges = _edges(base, given, where, open)
    like = next(a for a in given if a is not None)
    _check(base, given, edges, like)
    weighted = base.dims[W] > 0
    reads = {X: (Y, W, Z), Y: (X, W, Z), W: (X, Y, Z), Z: (X, Y, W)}
    asked = [s for s in open if edges and all(given[k] is not None or (k == W and not weighted) for k in reads[s])]
    rows = [None if a is None else _by_edge(base, s, a, where, edges) for s, a in enumerate(given)]
    found = _Rows(base, rows, edges, fixed != 0.0).run(asked) if asked else {}
    return [_to_rows(base, s, found.get(s), where, n, like) for s, n in open.items()]


# --- rows


def _where(base: Program, index: list[Tensor]) -> dict[str, Tensor]:
    for tensor in index[: len(base.index_kinds)]:
        if tensor.dtype != torch.int64 or tensor.ndim != 1 or tensor.device.type != "cpu":
            raise ShapeError(
                f"an index is {tuple(tensor.shape)} {tensor.dtype} on {tensor.device}; it must be one-dimensional "
                "int64 on the CPU. Make a Graph of the edges."
            )
    where = dict(zip(base.index_kinds, index, strict=False))
    if len({len(tensor) for tensor in where.values()}) > 1:
        sizes = {kind: len(tensor) for kind, tensor in where.items()}
        raise ShapeError(f"the index tensors differ in length: {sizes}; give each one entry an edge.")
    return where


def _edges(base: Program, given: list[Tensor | None], where: dict[str, Tensor], open: dict[int, int]) -> int:
    if where:
        return len(next(iter(where.values())))
    sizes = [len(a) for s, a in enumerate(given) if a is not None and base.rows[s] == EDGE]
    return (sizes + [n for s, n in open.items() if base.rows[s] == EDGE] + [1])[0]


def _check(base: Program, given: list[Tensor | None], edges: int, like: Tensor) -> None:
    """The last line before native code, also for calls of the op itself: what the kernel reads must be there."""
    fixed = {EDGE: edges, SHARED: 1}
    for slot, a in enumerate(given):
        if a is None:
            continue
        rows = fixed.get(base.rows[slot], len(a))
        if a.shape != (rows, base.dims[slot]) or a.dtype != like.dtype or a.device.type != "cpu":
            raise ShapeError(
                f"slot {slot} is {tuple(a.shape)} {a.dtype} on {a.device}; the program reads "
                f"{(rows, base.dims[slot])} {like.dtype} on cpu.\n  program   {base}"
            )


def _by_edge(base: Program, slot: int, a: Tensor, where: dict[str, Tensor], edges: int) -> Tensor:
    """An operand's row for every edge; shared weights stay one row."""
    kind = base.rows[slot]
    if kind == SHARED:
        return a.contiguous() if slot == W else a.expand(edges, -1).contiguous()
    if kind == EDGE:
        return a.contiguous()
    try:
        return a.index_select(0, where[kind])
    except (IndexError, RuntimeError) as error:
        raise ShapeError(f"{kind} index out of range: {error}\n  program   {base}") from None


def _to_rows(base: Program, slot: int, local: Tensor | None, where: dict[str, Tensor], n: int, like: Tensor) -> Tensor:
    """A result by edge as rows of its slot."""
    kind = base.rows[slot]
    if local is None:
        return like.new_zeros(n, base.dims[slot])
    if kind == EDGE or (kind == SHARED and slot == W):
        return local
    if kind == SHARED:
        return local.sum(0, keepdim=True)
    try:
        return like.new_zeros(n, base.dims[slot]).index_add_(0, where[kind], local)
    except (IndexError, RuntimeError) as error:
        raise ShapeError(f"{kind} index out of range: {error}\n  program   {base}") from None


# --- kernels


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
        self.x, self.y, self.w, self.g = operands
        self.like = next(a for a in operands if a is not None)
        self.double = self.like.dtype == torch.float64
        self.shared = base.rows[W] == SHARED
        self.direct, self.mixings = _kernels(base.text, not self.shared, fixed)
        self._turn = _C.turn_f64 if self.double else _C.turn_f32
        self._mix = _C.mix_f64 if self.double else _C.mix_f32

    def run(self, asked: list[int]) -> dict[int, Tensor]:
        """The results by edge (dw one row if weights are shared)."""
        whole = {s: self._empty(1 if s == W and self.shared else self.edges, self.base.dims[s]) for s in asked}
        if self.direct is not None:
            g = self.g if asked != [Z] else None
            given, found = [self.x, self.y, self.w, g], [whole.get(s) for s in (Z, X, Y, W)]
            pointers = [_pointer(a) for a in given], [_pointer(a) for a in found]
            self.direct.run(self.double, self.edges, self.shared, False, *pointers, threads())
        else:
            for slot, a in whole.items():
                if slot != W or not self.mixings:
                    a.zero_()
        if self.mixings:
            self._mix_all(whole)
        return whole

    def _empty(self, rows: int, columns: int) -> Tensor:
        return self.like.new_empty(rows, columns)

    def _mix_all(self, whole: dict[int, Tensor]) -> None:
        """Add the mixing paths to the results, x and y turned once for all of them."""
        inside = {X: self._inside(X, self.x), Y: self._inside(Y, self.y)}
        grads: dict[int, Tensor | None] = {X: None, Y: None}
        for slot in (X, Y):
            if slot in whole:
                turned = inside[slot] is not (self.x, self.y)[slot]
                grads[slot] = torch.zeros_like(inside[slot]) if turned else whole[slot]
        for mixing, coupling in self.mixings:
            _Mix(self, mixing, coupling, inside, grads, whole).run()
        for slot, grad in grads.items():
            if grad is not None and grad is not whole[slot]:
                for n, columns in enumerate(self._irreps(slot).slices()):
                    self.segment(slot, n, grad[:, columns], whole[slot][:, columns], split=False, add=True)

    def _irreps(self, slot: int) -> Irreps:
        return self.base.operands[slot].irreps  # type: ignore[return-value]

    def _inside(self, slot: int, a: Tensor | None) -> Tensor:
        assert a is not None
        irreps = self._irreps(slot)
        if not self.turn or all(mul == 1 or ir.dim == 1 for mul, ir in irreps):
            return a
        turned = torch.empty_like(a)
        for n, columns in enumerate(irreps.slices()):
            self.segment(slot, n, a[:, columns], turned[:, columns], split=True)
        return turned

    def segment(self, slot: int, n: int, source: Tensor, to: Tensor, *, split: bool, add: bool = False) -> None:
        """Copy or add rows of a segment, components outermost after `split`, else channels."""
        mul, ir = self._irreps(slot)[n]
        ends = (source.data_ptr(), source.stride(0)), (to.data_ptr(), to.stride(0))
        self._turn((len(to), mul, ir.dim), self.turn, split, add, *ends, threads())


class _Mix:
    """The mixing paths into one segment of z, a block of rows at a time."""

    def __init__(
        self,
        rows: _Rows,
        mixing: Mixing,
        coupling: _C.Coupling,
        inside: dict[int, Tensor],
        grads: dict[int, Tensor | None],
        whole: dict[int, Tensor],
    ) -> None:
        self.rows, self.mixing, self.coupling, self.inside, self.grads = rows, mixing, coupling, inside, grads
        self.z, self.dw = whole.get(Z), whole.get(W)
        self.mul, ir = rows._irreps(Z)[mixing.out]
        self.dim = ir.dim
        self.columns = rows._irreps(Z).slices()[mixing.out]
        self.weighted = [part for part in mixing.parts if part.weights is not None]
        size = mixing.width * self.dim * rows.like.element_size()
        self.block = max(16, BLOCK // max(size, 1))

    def run(self) -> None:
        """All rows."""
        shared = self.rows.shared
        weights = self._weights() if shared else None
        total = self.rows.like.new_zeros(self.mixing.width, self.mul) if shared and self.dw is not None else None
        for first in range(0, self.rows.edges, self.block):
            self._block(first, min(first + self.block, self.rows.edges), weights, total)
        if total is not None:
            self._put_weights(total)

    def _block(self, first: int, last: int, weights: Tensor | None, total: Tensor | None) -> None:
        like, n, backward = self.rows.like, last - first, any(g is not None for g in self.grads.values())
        a = None
        if self.z is not None or self.dw is not None:
            a = like.new_empty(n, self.dim, self.mixing.width)
            self._couple(first, n, None, a)
        z = None if self.z is None else like.new_empty(n, self.dim, self.mul)
        da = like.new_empty(n, self.dim, self.mixing.width) if backward else None
        g = None
        if backward or self.dw is not None:
            assert self.rows.g is not None
            g = like.new_empty(n, self.dim, self.mul)
            self.rows.segment(Z, self.mixing.out, self.rows.g[first:last, self.columns], g.flatten(1), split=True)
        if weights is not None:
            self._products(a, g, z, da, weights, total)
        else:
            self._by_row(first, n, a, g, z, da)
        if z is not None:
            to = self.z[first:last, self.columns]  # type: ignore[index]
            self.rows.segment(Z, self.mixing.out, z.flatten(1), to, split=False, add=self.rows.direct is not None)
        if da is not None:
            self._couple(first, n, da, None)

    def _couple(self, first: int, n: int, g: Tensor | None, a: Tensor | None) -> None:
        grads = [None, None] if g is None else [self.grads[X], self.grads[Y]]
        given = [_pointer(self.inside[X], first), _pointer(self.inside[Y], first), 0, _pointer(g)]
        found = [_pointer(a), *(_pointer(grad, first) for grad in grads), 0]
        self.coupling.run(self.rows.double, n, True, True, given, found, threads())

    def _products(
        self,
        a: Tensor | None,
        g: Tensor | None,
        z: Tensor | None,
        da: Tensor | None,
        weights: Tensor,
        total: Tensor | None,
    ) -> None:
        width, mul = self.mixing.width, self.mul
        if z is not None and a is not None:
            torch.mm(a.view(-1, width), weights, out=z.view(-1, mul))
        if da is not None and g is not None:
            torch.mm(g.view(-1, mul), weights.t(), out=da.view(-1, width))
        if total is not None and a is not None and g is not None:
            total.addmm_(a.view(-1, width).t(), g.view(-1, mul))

    def _by_row(
        self, first: int, n: int, a: Tensor | None, g: Tensor | None, z: Tensor | None, da: Tensor | None
    ) -> None:
        w = self.rows.w
        paths = [(p.first, p.weights.start, p.channels) for p in self.weighted]  # type: ignore[union-attr]
        sizes = [n, self.dim, self.mixing.width, self.mul, self.rows.base.dims[W]]
        given = [_pointer(a), _pointer(w, first), _pointer(g)]
        found = [_pointer(z), _pointer(da), _pointer(self.dw, first)]
        self.rows._mix(paths, sizes, given, found, threads())
        for part in self.mixing.parts:
            if part.weights is None:  # uuw without weights sums its channels
                taken = slice(part.first, part.first + part.channels)
                if z is not None and a is not None:
                    z += a[:, :, taken].sum(2, keepdim=True)
                if da is not None and g is not None:
                    da[:, :, taken] = g

    def _weights(self) -> Tensor:
        """(intermediate channels, channels of z) of all paths; 1 for those without weights."""
        w, mul = self.rows.w, self.mul
        made = []
        for part in self.mixing.parts:
            if part.weights is None:
                made.append(self.rows.like.new_ones(part.channels, mul))
                continue
            if w is None:  # neither z nor an input's gradient was asked for
                return self.rows.like.new_empty(self.mixing.width, mul)
            matrix = w[0, part.weights]
            if part.turned is not None:
                matrix = matrix.view(*part.turned, mul).transpose(0, 1).reshape(-1)
            made.append(matrix.view(part.channels, mul))
        return made[0] if len(made) == 1 else torch.cat(made)

    def _put_weights(self, total: Tensor) -> None:
        assert self.dw is not None
        for part in self.weighted:
            matrix = total[part.first : part.first + part.channels]
            if part.turned is not None:
                m1, m2 = part.turned
                matrix = matrix.view(m2, m1, self.mul).transpose(0, 1)
            self.dw[0, part.weights] = matrix.reshape(-1)
