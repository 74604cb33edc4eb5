"""How a sweep is laid out for Triton: blocks of channels, the kernel's arguments."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from equikern.backends.gpu.sweep import NAMES, OPENED, OPERANDS, Sweep, held, sweep_units
from equikern.backends.triton.text import WARP, power_of_two
from equikern.program.program import Z

REGISTERS = 160  # values a lane that a program instance may hold between edges
WIDE_REGISTERS = 96  # as many where it has 128 channels, four a lane


class Block(NamedTuple):
    """The program instances of a row that compute a unit, `lanes` channels each."""

    unit: int
    instances: int
    lanes: int


@cache
def blocks(sweep: Sweep) -> tuple[Block, ...]:
    """How many program instances each unit takes for a row, and how many channels one has: as many as fit."""
    made = []
    for n, unit in enumerate(sweep_units(sweep)):
        values = held(sweep, unit)
        # Rows of a table are read best two channels a lane (measured, H100).
        wide = 2 * WARP if 2 * values <= REGISTERS else WARP
        wide = 4 * WARP if 4 * values <= WIDE_REGISTERS and not sweep.table else wide
        lanes = min(power_of_two(unit.mul), wide)
        made.append(Block(n, -(-unit.mul // lanes), lanes))
    return tuple(made)


def busiest(sweep: Sweep) -> int:
    """The most values that a lane of the sweep holds."""
    values = [held(sweep, unit) * block.lanes for unit, block in zip(sweep_units(sweep), blocks(sweep), strict=True)]
    return max(values, default=0) // WARP


def instances(sweep: Sweep) -> int:
    """Program instances of a row."""
    return sum(block.instances for block in blocks(sweep))


@cache
def arguments(sweep: Sweep) -> tuple[str, ...]:
    """Names of the kernel's arguments, pointers first."""
    names = [OPERANDS[slot] for slot in sweep.given]
    names += [OPENED[slot] for slot in sweep.open]
    names += ["knot"] if sweep.table else []
    other = NAMES[sweep.other] if sweep.owner == Z else "z"
    names += [f"{other}_index"] if sweep.indexed else []
    names += ["edges"] if sweep.by_edge else ["ptr", "order"]
    names += [f"{other}_rows"] if sweep.indexed else []
    return (*names, "w_rows") if sweep.table else tuple(names)
