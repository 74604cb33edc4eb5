"""Products with scalars y that few rows share (of atoms' species), on the CPU: a linear map for each row of y.

With y[species] the rows of one species have one matrix of weights, sum over v of y_v W[u, v, w]; gradients of y and W
follow from the sums of outer products x g of each species. It costs what a linear map costs, not y's channels times as
much.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from equikern.backends.cpu_linear import Side, multiply
from equikern.errors import ShapeError
from equikern.program import EDGE, SHARED, Path, Program, parse, wigner_3j
from equikern.program.program import W, X, Y, Z


@cache
def takes(text: str) -> bool:
    """Whether all of a program's paths mix channels by shared weights and read scalars of indexed rows of y."""
    program = parse(text)
    rows = program.rows
    return (
        program.family == "product"
        and bool(program.paths)
        and all(path.mode == "uvw" and 0 not in program.multiplicities(path) for path in program.paths)
        and all(ir.l == 0 for _, ir in program.operands[Y].irreps)  # type: ignore[union-attr]
        and (rows[X], rows[W], rows[Z]) == (EDGE, SHARED, EDGE)
        and rows[Y] not in (EDGE, SHARED)
    )


def sweep(base: Program, operands: list[Tensor], index: list[Tensor], open: dict[int, int]) -> list[Tensor]:
    """dF/da for each open slot; `operands` are x y w g, `index` holds the species of the rows."""
    given = [a.contiguous() if a.ndim == 2 else None for a in operands]
    like = next(a for a in given if a is not None)
    species = _check(base, given, index, open)
    asked = [s for s in open if len(species) and all(given[k] is not None for k in (X, Y, W, Z) if k not in (s, Z))]
    asked = [s for s in asked if s == Z or given[Z] is not None]
    if not asked:
        return [like.new_zeros(n, base.dims[s]) for s, n in open.items()]
    call = _Call(base, given, species, like, {s: open[s] for s in asked})
    for path, columns in zip(base.paths, base.weight_slices, strict=True):
        call.add(path, columns)
    found = call.finished()
    return [found[s] if s in found else like.new_zeros(n, base.dims[s]) for s, n in open.items()]


def _check(base: Program, given: list[Tensor | None], index: list[Tensor], open: dict[int, int]) -> Tensor:
    """The species of the rows (E,), int64; raises ShapeError for tensors that do not fit."""
    like = next(a for a in given if a is not None)
    species = index[0]
    if species.dtype != torch.int64 or species.ndim != 1 or species.device.type != "cpu":
        raise ShapeError(
            f"the index is {tuple(species.shape)} {species.dtype} on {species.device}; it must be one-dimensional "
            "int64 on the CPU."
        )
    rows = len(species)
    counts = [rows, open.get(Y, 0) if given[Y] is None else len(given[Y]), 1, rows]  # type: ignore[arg-type]
    for slot, a in enumerate(given):
        n = counts[slot]
        wrong = a is not None and (a.shape != (n, base.dims[slot]) or a.dtype != like.dtype or a.device.type != "cpu")
        if wrong or open.get(slot, n) != n:
            raise ShapeError(
                f"slot {slot} does not fit {(n, base.dims[slot])} {like.dtype} on cpu.\n  program   {base}"
            )
    return species.contiguous()


class _Call:
    """One call, its operands checked."""

    def __init__(
        self, base: Program, given: list[Tensor | None], species: Tensor, like: Tensor, asked: dict[int, int]
    ) -> None:
        from equikern.backends import cpu  # it chooses among the ways and is complete only now

        self.base, self.like, self.asked = base, like, asked
        x, y, self.w, g = given
        count = asked[Y] if y is None else len(y)
        ptr, order = cpu.plan(species, species, count, count)
        ends = ptr.tolist()
        self.present = [t for t in range(count) if ends[t + 1] > ends[t]]
        self.groups = [(ends[t], ends[t + 1]) for t in self.present]
        self.order = order if len(self.present) > 1 else None
        self.y = None if y is None else y[self.present]  # (P, v)
        self.sides = {s: Side(base, s, self._sorted(a)) for s, a in ((X, x), (Z, g)) if a is not None}
        self.results = {s: Side(base, s, like.new_empty(n, base.dims[s])) for s, n in asked.items() if s in (X, Z)}
        self.dw = like.new_zeros(1, base.dims[W]) if W in asked else None
        self.dy = like.new_zeros(len(self.present), base.dims[Y]) if Y in asked else None

    def _sorted(self, a: Tensor) -> Tensor:
        return a if self.order is None else a.index_select(0, self.order)

    def add(self, path: Path, columns: slice) -> None:
        """What a path gives to each result."""
        m1, m2, m3 = self.base.multiplicities(path)
        ir = self.base.operands[Z].irreps[path.out].ir  # type: ignore[index]
        scale = path.scale * float(wigner_3j(ir.l, 0, ir.l)[0, 0, 0])
        y_columns = self.base.operands[Y].irreps.slices()[path.in2]  # type: ignore[union-attr]
        y = None if self.y is None else self.y[:, y_columns]
        weight = None if self.w is None else self.w[0, columns].view(m1, m2, m3)
        rows = [slice(first * ir.dim, last * ir.dim) for first, last in self.groups]
        if self.results and weight is not None and y is not None:
            matrices = list(zip(rows, _matrices(y, weight), strict=True))
            if Z in self.results:
                self.results[Z].add(path.out, self.sides[X].matrix(path.in1), matrices, scale)
            if X in self.results:
                turned = [(group, matrix.t()) for group, matrix in matrices]
                self.results[X].add(path.in1, self.sides[Z].matrix(path.out), turned, scale)
        if self.dw is None and self.dy is None:
            return
        sums = self.like.new_empty(m1, len(self.groups), m3)
        x, g = self.sides[X].matrix(path.in1), self.sides[Z].matrix(path.out)
        for n, group in enumerate(rows):
            multiply(x[group].t(), g[group], sums[:, n], scale, add=False)
        if self.dw is not None and y is not None:
            self.dw[0, columns].view(m1, m2, m3).add_(torch.matmul(y.t(), sums))
        if self.dy is not None and weight is not None:
            self.dy[:, y_columns] += torch.matmul(sums, weight.transpose(1, 2)).sum(0)

    def finished(self) -> dict[int, Tensor]:
        """The results, in the order of rows."""
        found = {}
        for slot, side in self.results.items():
            rows = side.finished()
            found[slot] = rows if self.order is None else torch.empty_like(rows).index_copy_(0, self.order, rows)
        if self.dw is not None:
            found[W] = self.dw
        if self.dy is not None:
            found[Y] = self.like.new_zeros(self.asked[Y], self.base.dims[Y])
            found[Y][self.present] = self.dy
        return found


def _matrices(y: Tensor, weight: Tensor) -> list[Tensor]:
    """For each row of y (P, v) the matrix sum over v of y_v weight[u, v, w]: (u, w); of one-hot rows, what it reads."""
    nonzero = y != 0
    if bool((nonzero.sum(1) == 1).all()):
        at = nonzero.int().argmax(1)
        factors = y.gather(1, at.unsqueeze(1)).flatten().tolist()
        return [weight[:, v] if f == 1 else weight[:, v] * f for v, f in zip(at.tolist(), factors, strict=True)]
    return list(torch.matmul(y, weight).unbind(1))
