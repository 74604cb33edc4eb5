"""What one kernel computes, and how its work is laid out: units, blocks of channels, arguments, columns of parts."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from equikern.backends.triton.text import WARP, power_of_two
from equikern.backends.triton.units import Unit, units
from equikern.program import EDGE, Program, parse
from equikern.program.program import X, Y, Z

HX, HY, HW = range(4, 7)
NAMES = ("x", "y", "w", "g", "hx", "hy", "hw")
RESULTS = ("dx", "dy", "dw", "z")
REGISTERS = 160  # values a lane that a program instance may hold between edges
WIDE_REGISTERS = 96  # as many where it has 128 channels, four a lane


class Sweep(NamedTuple):
    """What one kernel computes: the opened slots of a product, or (`second`) of its derivative along hx, hy and hw.

    A program instance owns a row of z and sums over its edges; with `owner` X it owns a row of x, and opens x alone.
    """

    text: str
    open: tuple[int, ...]
    given: tuple[int, ...]  # which of x y w g hx hy hw are read
    second: bool = False
    fixed: bool = True  # unweighted paths take part
    owner: int = Z

    @property
    def program(self) -> Program:
        """The base program."""
        return parse(self.text)

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


class Block(NamedTuple):
    """The program instances of a row that compute a unit, `lanes` channels each."""

    unit: int
    instances: int
    lanes: int


@cache
def sweep_units(sweep: Sweep) -> tuple[Unit, ...]:
    """The units of a sweep."""
    whole = "x" if sweep.owner == X else "z" if Z in sweep.open else ""
    return units(sweep.text, whole, sweep.second, sweep.fixed)


@cache
def blocks(sweep: Sweep) -> tuple[Block, ...]:
    """How many program instances each unit takes for a row, and how many channels one has: as many as fit."""
    made = []
    for n, unit in enumerate(sweep_units(sweep)):
        held = _held(sweep, unit)
        wide = 4 * WARP if 4 * held <= WIDE_REGISTERS else 2 * WARP if 2 * held <= REGISTERS else WARP
        lanes = min(power_of_two(unit.mul), wide)
        made.append(Block(n, -(-unit.mul // lanes), lanes))
    return tuple(made)


def _held(sweep: Sweep, unit: Unit) -> int:
    """Values a channel that a unit holds: of z and x, their cotangents and tangents, and sums over channels."""
    zs, xs = sum(segment.dim for segment in unit.zs), sum(segment.dim for segment in unit.xs)
    sums = len({cell.j for path in unit.paths for cell in path.cells}) if Y in sweep.open else 0
    return zs * (2 if Z in sweep.open and Z in sweep.given else 1) + xs * (4 if sweep.second else 2) + sums


def busiest(sweep: Sweep) -> int:
    """The most values that a lane of the sweep holds."""
    held = [_held(sweep, unit) * block.lanes for unit, block in zip(sweep_units(sweep), blocks(sweep), strict=True)]
    return max(held, default=0) // WARP


def instances(sweep: Sweep) -> int:
    """Program instances of a row."""
    return sum(block.instances for block in blocks(sweep))


@cache
def part_columns(sweep: Sweep) -> tuple[dict[tuple[int, int], int], int]:
    """Where an edge's gradient of x lies: the first column of (unit, segment of x), components first; and the width."""
    at, width = {}, 0
    for n, unit in enumerate(sweep_units(sweep)):
        for segment in unit.xs:
            at[n, segment.number] = width
            width += -(-segment.mul * segment.dim // 4) * 4
    return at, width


@cache
def arguments(sweep: Sweep) -> tuple[str, ...]:
    """Names of the kernel's arguments, pointers first."""
    names = [NAMES[slot] for slot in sweep.given]
    names += [RESULTS[slot] for slot in sweep.open]
    other = NAMES[sweep.other] if sweep.owner == Z else "z"
    names += [f"{other}_index"] if sweep.indexed else []
    names += ["edges"] if sweep.by_edge else ["ptr", "order"]
    return (*names, f"{other}_rows") if sweep.indexed else tuple(names)
