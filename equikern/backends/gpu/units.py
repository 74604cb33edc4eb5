"""How a program of kept or equal channels is cut into the units of a kernel: tables, no arithmetic.

A unit is a set of paths that are computed together, for a block of channels: what it accumulates must fit its
registers. A segment of the output is summed by one unit alone; a segment of x may be read by several.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from equikern.backends._channelwise import kept
from equikern.program import Irreps, Program, parse, wigner_3j
from equikern.program.program import X, Y

WIDEST = 56  # values a channel that a unit may keep in registers over an edge, before its paths are cut


class Cell(NamedTuple):
    """One nonzero of a path's coefficients: components of x and z, column of y (where y has a channel for each of x's,
    component of all y), coefficient over the path's scale.
    """

    i: int
    j: int
    k: int
    value: float


class UnitPath(NamedTuple):
    """A path as kernels read it, of one channel of y where y has the same for all of x's; `w`: its first column of
    weights, -1 if it has none, `step`: columns from a channel's to the next one's; `scale` multiplies all cells.
    """

    number: int
    x: int
    y: int
    z: int
    w: int
    step: int
    scale: float
    cells: tuple[Cell, ...]


class Segment(NamedTuple):
    """Columns of one entry `mul x ir`: its number, the first column, channels, components, and the first component,
    where those of all entries are counted.
    """

    number: int
    start: int
    mul: int
    dim: int
    first: int


class Unit(NamedTuple):
    """Paths of equal multiplicity that are computed together; `ys`: segments of y, where it has channels."""

    paths: tuple[UnitPath, ...]
    xs: tuple[Segment, ...]
    ys: tuple[Segment, ...]
    zs: tuple[Segment, ...]

    @property
    def mul(self) -> int:
        """Channels."""
        return self.xs[0].mul


def segments(irreps: Irreps) -> list[Segment]:
    """The entries with their columns."""
    starts = np.cumsum([0, *(entry.dim for entry in irreps)])
    firsts = np.cumsum([0, *(ir.dim for _, ir in irreps)])
    return [Segment(n, int(starts[n]), mul, ir.dim, int(firsts[n])) for n, (mul, ir) in enumerate(irreps)]


def _unit_paths(program: Program, by_channel: bool) -> list[UnitPath]:
    x, y, z = (program.operands[slot].irreps for slot in (X, Y, -1))
    ys = segments(y)  # type: ignore[arg-type]
    found: list[UnitPath] = []
    for path, columns in zip(program.paths, program.weight_slices, strict=True):
        symbol = wigner_3j(x[path.in1].ir.l, y[path.in2].ir.l, z[path.out].ir.l)  # type: ignore[index]
        # The common factor goes to the weight: most of the cells are then 1 or -1.
        factor = float(np.abs(symbol).max())
        values = [(i, j, k, _tidy(symbol[i, j, k] / factor)) for i, j, k in np.argwhere(symbol).tolist()]
        numbers = _numbers(ys[path.in2], program.layout, by_channel)
        for v, of_y in enumerate(numbers):
            cells = tuple(Cell(i, of_y[j], k, value) for i, j, k, value in values)
            w, scale = columns.start + v if path.weighted else -1, _tidy(path.scale * factor)
            found.append(UnitPath(len(found), path.in1, path.in2, path.out, w, len(numbers), scale, cells))
    return found


def _numbers(segment: Segment, layout: str, by_channel: bool) -> list[list[int]]:
    """What a cell's j says, for each component of a segment of y: of every channel its columns, or one for all."""
    _, start, mul, dim, first = segment
    if by_channel:
        return [list(range(first, first + dim))]
    columns = np.arange(start, start + mul * dim)
    return (columns.reshape(mul, dim) if layout == "mul_ir" else columns.reshape(dim, mul).T).tolist()  # type: ignore[no-any-return]


def _tidy(value: float) -> float:
    """1 and -1 where rounding missed them by a bit: such factors are not multiplied."""
    return float(round(value)) if abs(abs(value) - 1) < 1e-15 else float(value)


@cache
def units(text: str, whole: str, second: bool, fixed: bool, widest: int = WIDEST) -> tuple[Unit, ...]:
    """The units of a product program. `whole`: the operand, "x" or "z", whose segments are summed and so stay in one
    unit, "" if none; `second`: twice the values are kept; not `fixed`: unweighted paths drop out.
    """
    program, by_channel = parse(text), not kept(text)
    xs, ys, zs = (segments(program.operands[slot].irreps) for slot in (X, Y, -1))  # type: ignore[arg-type]
    paths = [path for path in _unit_paths(program, by_channel) if xs[path.x].mul and (fixed or path.w >= 0)]

    def cost(group: list[UnitPath]) -> int:
        outputs = sum(zs[c].dim for c in {path.z for path in group}) * (2 if whole == "z" and second else 1)
        inputs = sum(xs[a].dim for a in {path.x for path in group})
        inputs += sum(ys[b].dim for b in {path.y for path in group}) if by_channel else 0
        return outputs + inputs * (4 if second else 2)

    def shares(path: UnitPath, other: UnitPath) -> bool:
        return path.x == other.x or (by_channel and path.y == other.y)

    groups: list[list[UnitPath]] = []
    for path in paths:
        same = [g for g in groups if whole and any(getattr(o, whole) == getattr(path, whole) for o in g)]
        near = [g for g in groups if any(shares(path, other) for other in g) and cost([*g, path]) <= widest]
        if same or near:
            (same or near)[0].append(path)
        else:
            groups.append([path])

    def of(segments: list[Segment], numbers: set[int]) -> tuple[Segment, ...]:
        return tuple(segments[n] for n in sorted(numbers))

    return tuple(
        Unit(
            tuple(group),
            of(xs, {path.x for path in group}),
            of(ys, {path.y for path in group}) if by_channel else (),
            of(zs, {path.z for path in group}),
        )
        for group in groups
    )
