"""Products with scalars y that few rows share (of atoms' species), on the CPU: a linear map for each row of y.

With y[species] the rows of one species have one matrix of weights, sum over v of y_v W[u, v, w]; gradients of y and W
follow from the sums of outer products x g of each species. It costs what a linear map costs, not y's channels times as
much.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from equikern.backends.cpu_linear import Groups, Side, check_species, multiply
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
    given = [a if a.ndim == 2 else None for a in operands]
    like = next(a for a in given if a is not None)
    rows = _check(base, given, index, open, like)
    asked = [s for s in open if rows and all(given[k] is not None for k in (X, Y, W, Z) if k not in (s, Z))]
    asked = [s for s in asked if s == Z or given[Z] is not None]
    if not asked:
        return [like.new_zeros(n, base.dims[s]) for s, n in open.items()]
    call = _Call(base, given, index[0].contiguous(), like, {s: open[s] for s in asked})
    for path, columns in zip(base.paths, base.weight_slices, strict=True):
        call.add(path, columns)
    found = call.finished()
    return [found[s] if s in found else like.new_zeros(n, base.dims[s]) for s, n in open.items()]


def _check(base: Program, given: list[Tensor | None], index: list[Tensor], open: dict[int, int], like: Tensor) -> int:
    """The number of rows; raises ShapeError for tensors that do not fit."""
    rows, y = check_species(index[0]), given[Y]
    counts = [rows, open.get(Y, 0) if y is None else y.shape[0], 1, rows]
    for slot, (a, n) in enumerate(zip(given, counts, strict=True)):
        wrong = a is not None and (a.shape != (n, base.dims[slot]) or a.dtype != like.dtype or a.device.type != "cpu")
        if wrong or open.get(slot, n) != n:
            raise ShapeError(f"slot {slot} is not {(n, base.dims[slot])} {like.dtype} on cpu.\n  program   {base}")
    return rows


class _Call:
    """One call, its operands checked."""

    def __init__(
        self, base: Program, given: list[Tensor | None], species: Tensor, like: Tensor, asked: dict[int, int]
    ) -> None:
        self.base, self.like, self.asked = base, like, asked
        x, y, self.w, g = given
        self.groups = Groups(species, asked[Y] if y is None else y.shape[0])
        self.y = None if y is None else y[self.groups.present]  # (P, v)
        self.sides = {s: Side(base.text, s, self.groups.sorted(a)) for s, a in ((X, x), (Z, g)) if a is not None}
        rows = {s: like.new_empty(n, base.dims[s]) for s, n in asked.items() if s in (X, Z)}
        self.results = {s: Side(base.text, s, a) for s, a in rows.items()}
        self.dw = like.new_zeros(1, base.dims[W]) if W in asked else None
        self.dy = like.new_zeros(len(self.groups.present), base.dims[Y]) if Y in asked else None

    def add(self, path: Path, columns: slice) -> None:
        """What a path gives to each result."""
        m1, m2, m3 = self.base.multiplicities(path)
        ir = self.base.operands[Z].irreps[path.out].ir  # type: ignore[index]
        scale = path.scale * float(wigner_3j(ir.l, 0, ir.l)[0, 0, 0])
        y_columns = self.base.operands[Y].irreps.slices()[path.in2]  # type: ignore[union-attr]
        y = None if self.y is None else self.y[:, y_columns]
        weight = None if self.w is None else self.w[0, columns].view(m1, m2, m3)
        if self.results and weight is not None and y is not None:
            matrices = _matrices(y, weight)
            if Z in self.results:
                self.results[Z].add(path.out, self.sides[X].matrix(path.in1), matrices, self.groups, scale)
            if X in self.results:
                turned = [matrix.t() for matrix in matrices]
                self.results[X].add(path.in1, self.sides[Z].matrix(path.out), turned, self.groups, scale)
        if self.dw is None and self.dy is None:
            return
        sums = self.like.new_empty(m1, len(self.groups.present), m3)
        x, g = self.sides[X].matrix(path.in1), self.sides[Z].matrix(path.out)
        for n, part in enumerate(self.groups.of(ir.dim)):
            multiply(x[part].t(), g[part], sums[:, n], scale, add=False)
        if self.dw is not None and y is not None:
            torch.matmul(y.t(), sums, out=self.dw[0, columns].view(m1, m2, m3))
        if self.dy is not None and weight is not None:
            self.dy[:, y_columns] += torch.matmul(sums, weight.transpose(1, 2)).sum(0)

    def finished(self) -> dict[int, Tensor]:
        """The results, in the order of rows outside."""
        found = {slot: self.groups.restored(side.finished()) for slot, side in self.results.items()}
        if self.dw is not None:
            found[W] = self.dw
        if self.dy is not None:
            found[Y] = self.like.new_zeros(self.asked[Y], self.base.dims[Y])
            found[Y][self.groups.present] = self.dy
        return found


def _matrices(y: Tensor, weight: Tensor) -> list[Tensor]:
    """For each row of y (P, v) the matrix sum over v of y_v weight[u, v, w]: (u, w); of one-hot rows, what it reads."""
    nonzero = y != 0
    if bool((nonzero.sum(1) == 1).all()):
        at = nonzero.int().argmax(1)
        factors = y.gather(1, at.unsqueeze(1)).flatten().tolist()
        return [weight[:, v] if f == 1 else weight[:, v] * f for v, f in zip(at.tolist(), factors, strict=True)]
    return list(torch.matmul(y, weight).unbind(1))
