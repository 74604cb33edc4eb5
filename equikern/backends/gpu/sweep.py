"""What one kernel computes, whichever language it is written in: which slots it opens, what it reads, its units."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from equikern.backends._channelwise import kept
from equikern.backends.gpu.units import WIDEST, Unit, units
from equikern.program import EDGE, Program, parse
from equikern.program.program import X, Y, Z

HX, HY, HW = range(4, 7)
NAMES = ("x", "y", "w", "g", "hx", "hy", "hw")
RESULTS = ("dx", "dy", "dw", "z")
# Where weights come from a table w: the factors of its rows, and their tangents.
B, HB = 7, 8
OPERANDS = dict(enumerate((*NAMES, "b", "hb")))
OPENED = dict(enumerate(RESULTS)) | {B: "db"}


class Sweep(NamedTuple):
    """What one kernel computes: the opened slots of a product, or (`second`) of its derivative along hx, hy and hw.

    It owns a row of z and sums over its edges; with `owner` X it owns a row of x, and opens x alone. With `table`,
    offsets of rows, an edge's weights are w = sum over c of b_c w[knot + table_c]; w itself is then not opened, b may.
    """

    text: str
    open: tuple[int, ...]
    given: tuple[int, ...]  # which of x y w g hx hy hw b hb are read
    second: bool = False
    fixed: bool = True  # unweighted paths take part
    owner: int = Z
    table: tuple[int, ...] = ()
    widest: int = WIDEST  # values a channel of a unit

    @property
    def program(self) -> Program:
        """The base program."""
        return parse(self.text)

    @property
    def by_channel(self) -> bool:
        """Whether y has a channel for each of x's, not the same ones for all of them."""
        return not kept(self.text)

    @property
    def other(self) -> int:
        """Of x and z the one that is read at a row of each edge."""
        return X if self.owner == Z else Z

    @property
    def by_edge(self) -> bool:
        """Whether the owner has a row an edge."""
        return self.program.rows[self.owner] == EDGE

    @property
    def indexed(self) -> bool:
        """Whether the other operand is read, by an index."""
        reads = {X, HX} if self.owner == Z else {Z}
        return self.program.rows[self.other] != EDGE and bool(reads & set(self.given))


@cache
def sweep_units(sweep: Sweep) -> tuple[Unit, ...]:
    """The units of a sweep."""
    whole = "x" if sweep.owner == X else "z" if Z in sweep.open else ""
    return units(sweep.text, whole, sweep.second, sweep.fixed, sweep.widest)


def held(sweep: Sweep, unit: Unit) -> int:
    """Values a channel that a unit holds: of its segments, their cotangents and tangents, and sums over channels."""
    zs, xs = sum(segment.dim for segment in unit.zs), sum(segment.dim for segment in (*unit.xs, *unit.ys))
    sums = len({cell.j for path in unit.paths for cell in path.cells}) if Y in sweep.open and not unit.ys else 0
    table = len(sweep.table) * (2 if B in sweep.open else 1)
    return zs * (2 if Z in sweep.open and Z in sweep.given else 1) + xs * (4 if sweep.second else 2) + sums + table


@cache
def writes_x(sweep: Sweep) -> bool:
    """Whether the sweep writes the gradient of x where it belongs: it owns the rows, or x has a row an edge and one
    unit alone reads each segment. Otherwise there is one for each edge and unit, and a sum of these.
    """
    read = [segment.number for unit in sweep_units(sweep) for segment in unit.xs]
    return sweep.owner == X or (sweep.program.rows[X] == EDGE and len(read) == len(set(read)))


@cache
def y_parts(sweep: Sweep) -> tuple[dict[tuple[int, int], int], int]:
    """Where y has channels: the part of an edge's gradient of y that (unit, segment of y) writes; and their number."""
    parts: dict[tuple[int, int], int] = {}
    for n, unit in enumerate(sweep_units(sweep)):
        for segment in unit.ys:
            parts[n, segment.number] = sum(number == segment.number for _, number in parts)
    return parts, 1 + max(parts.values(), default=0)


@cache
def part_columns(sweep: Sweep) -> tuple[dict[tuple[int, int], int], int]:
    """Where an edge's gradient of x lies: the first column of (unit, segment of x), components first; and the width."""
    at, width = {}, 0
    for n, unit in enumerate(sweep_units(sweep)):
        for segment in unit.xs:
            at[n, segment.number] = width
            width += -(-segment.mul * segment.dim // 4) * 4
    return at, width
