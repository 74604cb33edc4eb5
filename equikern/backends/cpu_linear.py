"""Linear maps between equal irreps as matrix products of torch: one for each path, channels against channels."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, addmm, mm

from equikern.backends.cpu_modes import turn_segment
from equikern.errors import ShapeError
from equikern.program import EDGE, SHARED, Program

X, W, Z = range(3)
ALL = slice(None)


def sweep(base: Program, operands: list[Tensor], open: dict[int, int]) -> list[Tensor]:
    """dF/da of F = sum of scale * w x z for each open slot; `operands` are x (E, dim), w (1, n), z (E, dim)."""
    _check(base, operands, open)
    w = operands[W]
    like = next(a for a in operands if a.ndim == 2)
    sides = {slot: Side(base, slot, operands[slot].contiguous()) for slot in (X, Z) if operands[slot].ndim == 2}
    results = {s: Side(base, s, like.new_empty(n, base.dims[s])) for s, n in open.items() if s != W}
    found = like.new_zeros(open[W], base.dims[W]) if W in open else None
    for path, columns in zip(base.paths, base.weight_slices, strict=True):
        m1, _, m3 = base.multiplicities(path)
        if not m1 * m3:
            continue
        weight = w[0, columns].view(m1, m3) if w.ndim == 2 else None
        if Z in results and X in sides and weight is not None:
            results[Z].add(path.out, sides[X].matrix(path.in1), [(ALL, weight)], path.scale)
        if X in results and Z in sides and weight is not None:
            results[X].add(path.in1, sides[Z].matrix(path.out), [(ALL, weight.t())], path.scale)
        if found is not None and len(sides) == 2:
            out = found[0, columns].view(m1, m3)
            multiply(sides[X].matrix(path.in1).t(), sides[Z].matrix(path.out), out, path.scale, add=False)
    return [found if s == W else results[s].finished() for s in open]  # type: ignore[misc]


def _check(base: Program, operands: list[Tensor], open: dict[int, int]) -> None:
    """The last line before native code: the rows of x and z are as many, and what they should be."""
    like = next(a for a in operands if a.ndim == 2)
    given = [len(operands[s]) for s in (X, Z) if operands[s].ndim == 2]
    rows = next(n for n in (*given, open.get(X), open.get(Z), 0) if n is not None)
    for slot, a in enumerate(operands):
        n = 1 if slot == W else rows
        wrong = a.ndim == 2 and (a.shape != (n, base.dims[slot]) or a.dtype != like.dtype or a.device.type != "cpu")
        if wrong or open.get(slot, n) != n:
            raise ShapeError(
                f"slot {slot} is {tuple(a.shape)} {a.dtype} on {a.device}, of {open.get(slot, n)} rows; the program "
                f"reads {(n, base.dims[slot])} {like.dtype} on cpu.\n  program   {base}"
            )


def multiply(a: Tensor, b: Tensor, out: Tensor, scale: float, *, add: bool) -> None:
    """out = scale a b, or added; the other way round where b is narrow, as in `cpu_modes.multiply`."""
    if b.shape[1] % 16:
        turned = mm(b.t(), a.t()).t()
        if add:
            out.add_(turned, alpha=scale)
        else:
            out.copy_(turned.mul_(scale))
    else:
        # beta = 0: what is in `out` is not read
        addmm(out, a, b, beta=float(add), alpha=scale, out=out)


class Side:
    """The segments of x or z as matrices (rows * components, channels), each made or filled once."""

    def __init__(self, base: Program, slot: int, a: Tensor) -> None:
        self.a, self.turn = a, base.layout == "mul_ir"
        self.irreps = base.operands[slot].irreps
        self.columns = self.irreps.slices()  # type: ignore[union-attr]
        self.made: dict[int, Tensor] = {}

    def matrix(self, segment: int) -> Tensor:
        """(rows * components, channels) of a segment."""
        if segment not in self.made:
            self.made[segment] = self._empty(segment)
            if self.irreps[segment].ir.dim > 1:  # type: ignore[index]
                self._move(segment, split=True)
        return self.made[segment]

    def _empty(self, segment: int) -> Tensor:
        mul, ir = self.irreps[segment]  # type: ignore[index]
        if ir.dim == 1:
            return self.a[:, self.columns[segment]]
        return self.a.new_empty(len(self.a) * ir.dim, mul)

    def _move(self, segment: int, *, split: bool) -> None:
        mul, ir = self.irreps[segment]  # type: ignore[index]
        ends = self.a[:, self.columns[segment]], self.made[segment].view(len(self.a), ir.dim * mul)
        turn_segment((mul, ir.dim), *(ends if split else ends[::-1]), turn=self.turn, split=split)

    def add(self, segment: int, a: Tensor, matrices: Sequence[tuple[slice, Tensor]], scale: float) -> None:
        """Add scale a b to a segment, for some of the rows * components each b; before the first it holds nothing."""
        known = segment in self.made
        if not known:
            self.made[segment] = self._empty(segment)
        for rows, b in matrices:
            multiply(a[rows], b, self.made[segment][rows], scale, add=known)

    def finished(self) -> Tensor:
        """The rows, zero where nothing was added."""
        for segment, (mul, ir) in enumerate(self.irreps):  # type: ignore[arg-type]
            if segment not in self.made:
                self.a[:, self.columns[segment]].zero_()
            elif ir.dim > 1 and mul:
                self._move(segment, split=False)
        return self.a


def why_not(program: Program) -> str | None:
    """None if the program is a linear map with shared weights, row by row."""
    x, w, z = program.operands
    if (x.row, w.row, z.row) != (EDGE, SHARED, EDGE):
        return f"rows are x[{x.row}] w[{w.row}] z[{z.row}]; linear maps are x[edge] w[shared] z[edge]"
    return None
