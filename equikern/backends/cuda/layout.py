"""How a sweep is laid out on a device: channels a lane, warps of a row and of a block, edges that are read ahead."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from equikern.backends.gpu.sweep import HB, HW, HX, HY, B, Sweep, sweep_units
from equikern.backends.gpu.units import WIDEST, Unit, UnitPath
from equikern.program import SHARED
from equikern.program.program import W, X, Y, Z

WARP = 32
READ = 16  # bytes that a lane reads at once, at most
FILE = 65536  # registers of a multiprocessor
OTHER = 48  # registers a lane for addresses and counts
CHUNK = 16  # edges of a row of the grid where z has a row an edge


class Tuning(NamedTuple):
    """What a device decides. `values`: registers that a lane's values may take, which says how many channels it has;
    `registers`: that the compiler may give a lane; `warps` of a block; `ahead`: edges that are read ahead, into
    registers; `widest`: values a channel of a unit; `keep`: whether caches keep what is read or written once; `stages`:
    edges that have a place in the memory of the block, where what is read ahead waits instead, 0 if none has.
    """

    values: int
    registers: int
    warps: int = 1
    ahead: int = 1
    widest: int = WIDEST
    keep: bool = False
    stages: int = 0


# Of those that bench/tune_cuda.py tried on an H200 one for all layers: each takes at most 7 % longer than its own best.
FORWARD, BACKWARD, SECOND = Tuning(150, 128), Tuning(183, 168), Tuning(220, 255, widest=80)
# Where weights come from a table, a path waits for its rows; double precision has half the room.
TABLE_REGISTERS, CLOSE_SECOND = 168, Tuning(145, 168, widest=62)
LIGHT = 3  # coefficients a path: with so few, warps in numbers hide more than reads ahead


class Layout(NamedTuple):
    """Of a sweep; by unit: channels a lane, warps. `blocks`: that a multiprocessor is to have room for."""

    lanes: tuple[int, ...]
    tasks: tuple[int, ...]
    warps: int
    blocks: int
    ahead: int
    keep: bool
    stages: int

    @property
    def all_tasks(self) -> int:
        """Warps of a row."""
        return sum(self.tasks)


def tuned(sweep: Sweep, size: int) -> Tuning:
    """The one in use, by form, for numbers that are computed in `size` bytes."""
    if sweep.second:
        found = CLOSE_SECOND if sweep.table or size == 8 else SECOND
    else:
        found = FORWARD if sweep.open == (Z,) else BACKWARD
    if sweep.table:
        found = found._replace(registers=TABLE_REGISTERS)
    elif _light(sweep):
        found = found._replace(ahead=0)
    if size == 8:
        found = found._replace(widest=min(found.widest, WIDEST))
        if sweep.table and sweep.second:
            # Factors and their gradient take the place of other values, and of reads ahead.
            found = found._replace(widest=found.widest - 2 * len(sweep.table), ahead=0)
    return found


def _light(sweep: Sweep) -> bool:
    cells = [len(path.cells) for unit in sweep_units(sweep) for path in unit.paths]
    return sum(cells) <= LIGHT * len(cells)


def components(sweep: Sweep, path: UnitPath) -> tuple[int, int, int]:
    """2l+1 of a path's x, y and z."""
    program = sweep.program
    places = (X, path.x), (Y, path.y), (Z, path.z)
    x, y, z = (program.operands[slot].irreps[n].ir.dim for slot, n in places)  # type: ignore[index]
    return x, y, z


def columns(path: UnitPath) -> list[int]:
    """The columns of y that a path reads."""
    return sorted({cell.j for cell in path.cells})


def registers(sweep: Sweep, unit: Unit, lanes: int, ahead: int, size: int) -> int:
    """About what a lane's values take, `size` bytes each."""
    zs, ys, xs = (sum(segment.dim for segment in of) for of in (unit.zs, unit.ys, unit.xs))
    reads_z, opens_z, weights = Z in sweep.given, Z in sweep.open, sum(path.w >= 0 for path in unit.paths)
    read = xs * ((X in sweep.given) + (HX in sweep.given)) + ys * ((Y in sweep.given) + (HY in sweep.given))
    if not sweep.table:
        read += weights * ((W in sweep.given) + (HW in sweep.given))
    held = zs * (reads_z + opens_z) + xs * (X in sweep.open) + ys * (Y in sweep.open) + weights * (W in sweep.open) / 4
    held += max(segment.dim for segment in unit.xs) * (4 if sweep.second else 2 if Y in sweep.open else 1)
    held += max((segment.dim for segment in unit.ys), default=0)  # entries of M, where each channel has its own
    spread = 0
    if not sweep.by_channel:
        spread = max(len(columns(path)) for path in unit.paths) * ((Y in sweep.given) + (HY in sweep.given))
        spread += len({cell.j for path in unit.paths for cell in path.cells}) * (Y in sweep.open)
    # Of a table: a path's weights in each row; factors and their gradient.
    held += len(sweep.table)
    spread += len(sweep.table) * ((B in sweep.given) + (HB in sweep.given) + (B in sweep.open))
    return int((lanes * (held + (1 + ahead) * read) + spread) * max(size // 4, 1)) + OTHER


def _lanes(sweep: Sweep, unit: Unit, given: Tuning, size: int) -> int:
    """Channels a lane: as many as fit its registers and leave every read aligned."""
    program = sweep.program
    if any(p.w >= 0 and p.step > 1 for p in unit.paths):
        return 1
    starts = [s.start for s in (*unit.xs, *unit.ys, *unit.zs)] + [p.w for p in unit.paths if p.w >= 0]
    starts += [program.dims[slot] for slot in (X, Y, Z) if slot != Y or sweep.by_channel]
    starts += [program.dims[W]] if program.rows[W] != SHARED else []
    # Rows of a table are read best two channels a lane (measured in Triton, H100).
    for lanes in (2,) if sweep.table else (4, 2):
        aligned = all(column % lanes == 0 for column in starts) and unit.mul % (lanes * WARP) == 0
        if aligned and lanes * size <= READ and registers(sweep, unit, lanes, given.ahead, size) <= given.values:
            return lanes
    return 1


@cache
def layout(sweep: Sweep, size: int, given: Tuning) -> Layout:
    """Of a sweep over numbers that are computed in `size` bytes."""
    units = sweep_units(sweep)
    lanes = tuple(_lanes(sweep, unit, given, size) for unit in units)
    tasks = tuple(-(-unit.mul // (n * WARP)) for unit, n in zip(units, lanes, strict=True))
    blocks = FILE // (min(given.registers * size // 4, 255) * given.warps * WARP)
    return Layout(lanes, tasks, given.warps, max(blocks, 1), given.ahead, given.keep, given.stages)
