"""How a channelwise program is cut into the units of a kernel: tables, no arithmetic.

A unit is a set of paths that are computed together, for a block of channels: what it accumulates must fit its
registers. A segment of the output is summed by one unit alone; a segment of x may be read by several.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from equikern.program import Irreps, Program, parse, wigner_3j
from equikern.program.program import X, Y

WIDEST = 56  # values a channel that a unit may keep in registers over an edge, before its paths are cut


class Cell(NamedTuple):
    """One nonzero of a path's coefficients: components of x and z, column of y, coefficient over the path's scale."""

    i: int
    j: int
    k: int
    value: float


class UnitPath(NamedTuple):
    """A path as kernels read it; `w`: its first column of weights, -1 if it has none; `scale` multiplies all cells."""

    number: int
    x: int
    z: int
    w: int
    scale: float
    cells: tuple[Cell, ...]


class Segment(NamedTuple):
    """Columns of one entry `mul x ir`: its number, the first column, channels, components."""

    number: int
    start: int
    mul: int
    dim: int


class Unit(NamedTuple):
    """Paths of equal multiplicity that are computed together."""

    paths: tuple[UnitPath, ...]
    xs: tuple[Segment, ...]
    zs: tuple[Segment, ...]

    @property
    def mul(self) -> int:
        """Channels."""
        return self.xs[0].mul


def segments(irreps: Irreps) -> list[Segment]:
    """The entries with their columns."""
    starts = np.cumsum([0, *(entry.dim for entry in irreps)])
    return [Segment(n, int(starts[n]), mul, ir.dim) for n, (mul, ir) in enumerate(irreps)]


def _unit_path(program: Program, n: int) -> UnitPath:
    path, columns = program.paths[n], program.weight_slices[n]
    x, y, z = (program.operands[slot].irreps for slot in (X, Y, -1))
    symbol = wigner_3j(x[path.in1].ir.l, y[path.in2].ir.l, z[path.out].ir.l)  # type: ignore[index]
    first = y[: path.in2].dim  # type: ignore[index]
    nonzero = np.argwhere(symbol)
    # The common factor goes to the weight: most of the cells are then 1 or -1.
    factor = float(np.abs(symbol).max())
    cells = tuple(Cell(int(i), int(first + j), int(k), _tidy(symbol[i, j, k] / factor)) for i, j, k in nonzero)
    w = columns.start if path.weighted else -1
    return UnitPath(n, path.in1, path.out, w, _tidy(path.scale * factor), cells)


def _tidy(value: float) -> float:
    """1 and -1 where rounding missed them by a bit: such factors are not multiplied."""
    return float(round(value)) if abs(abs(value) - 1) < 1e-15 else float(value)


@cache
def units(text: str, whole: str, second: bool, fixed: bool, widest: int = WIDEST) -> tuple[Unit, ...]:
    """The units of a product program. `whole`: the operand, "x" or "z", whose segments are summed and so stay in one
    unit, "" if none; `second`: twice the values are kept; not `fixed`: unweighted paths drop out.
    """
    program = parse(text)
    xs, zs = segments(program.operands[X].irreps), segments(program.operands[-1].irreps)  # type: ignore[arg-type]
    paths = [_unit_path(program, n) for n in range(len(program.paths))]
    paths = [path for path in paths if xs[path.x].mul and (fixed or path.w >= 0)]

    def cost(group: list[UnitPath]) -> int:
        outputs = sum(zs[c].dim for c in {path.z for path in group}) * (2 if whole == "z" and second else 1)
        return outputs + sum(xs[a].dim for a in {path.x for path in group}) * (4 if second else 2)

    groups: list[list[UnitPath]] = []
    for path in paths:
        same = [g for g in groups if whole and any(getattr(o, whole) == getattr(path, whole) for o in g)]
        near = [g for g in groups if any(other.x == path.x for other in g) and cost([*g, path]) <= widest]
        if same or near:
            (same or near)[0].append(path)
        else:
            groups.append([path])
    return tuple(
        Unit(tuple(g), tuple(xs[a] for a in sorted({p.x for p in g})), tuple(zs[c] for c in sorted({p.z for p in g})))
        for g in groups
    )
