"""How a sweep is laid out on a device: channels a lane, warps and blocks of a row, edges that share a barrier."""

from __future__ import annotations

from functools import cache
from itertools import accumulate
from typing import NamedTuple

from equikern.backends.gpu.sweep import HY, Sweep, held, sweep_units
from equikern.backends.gpu.units import Unit, UnitPath
from equikern.program import SHARED
from equikern.program.program import W, X, Y, Z

WARP = 32
WARPS = 8  # of a block, at most: 256 threads may have 255 registers each
REGISTERS = 96  # that the values of a lane may take where it has several channels
READ = 4  # entries of a matrix that are read at once (path.cuh)
BATCH = 8  # edges that share a barrier
SHARED_BYTES = 24 * 1024  # of a block, so that several are on a multiprocessor
MOST_SHARED_BYTES = 48 * 1024  # that a kernel may declare


class Layout(NamedTuple):
    """Of a sweep; by unit: channels a lane, warps; and for each path of each unit where its matrix begins."""

    lanes: tuple[int, ...]
    tasks: tuple[int, ...]
    entries: tuple[tuple[int, ...], ...]
    ends: tuple[int, ...]
    warps: int
    blocks: int
    batch: int
    shared: int

    @property
    def all_entries(self) -> int:
        """Entries of an edge's matrices."""
        return self.ends[-1]


def components(sweep: Sweep, unit: Unit, path: UnitPath) -> tuple[int, int, int]:
    """2l+1 of a path's x, y and z."""
    sizes = {s.number: s.dim for s in unit.xs}, {s.number: s.dim for s in unit.zs}
    program = sweep.program
    y = program.operands[Y].irreps[program.paths[path.number].in2].ir.dim  # type: ignore[index]
    return sizes[0][path.x], y, sizes[1][path.z]


def _entries(sweep: Sweep, unit: Unit, path: UnitPath) -> int:
    d1, d2, d3 = components(sweep, unit, path)
    return 1 if d2 == 1 else d1 * d3


def _lanes(sweep: Sweep, unit: Unit, size: int) -> int:
    """Channels a lane: as many as fit its registers and leave every read aligned."""
    program = sweep.program
    columns = [s.start for s in (*unit.xs, *unit.zs)] + [p.w for p in unit.paths if p.w >= 0]
    columns += [program.dims[X], program.dims[Z]] + ([program.dims[W]] if program.rows[W] != SHARED else [])
    for lanes in (4, 2):
        aligned = all(column % lanes == 0 for column in columns) and unit.mul % (lanes * WARP) == 0
        if aligned and lanes * held(sweep, unit) * size // 4 <= REGISTERS:
            return lanes
    return 1


@cache
def layout(sweep: Sweep, size: int) -> Layout:
    """Of a sweep over numbers of `size` bytes."""
    units = sweep_units(sweep)
    lanes = tuple(_lanes(sweep, unit, size) for unit in units)
    tasks = tuple(-(-unit.mul // (n * WARP)) for unit, n in zip(units, lanes, strict=True))
    blocks = max(-(-sum(tasks) // WARPS), 1)
    warps = -(-sum(tasks) // blocks)
    begins, ends, at = [], [], 0
    for unit in units:
        padded = [-(-_entries(sweep, unit, path) // READ) * READ for path in unit.paths]
        *starts, at = accumulate(padded, initial=at)
        begins.append(tuple(starts))
        ends.append(at)
    widest = max((end - first[0] for first, end in zip(begins, ends, strict=True)), default=0)
    an_edge = size * (at * (2 if HY in sweep.given else 1) + (warps * widest if Y in sweep.open else 0)) + 16
    batch = BATCH
    while batch > 1 and batch * an_edge > SHARED_BYTES:
        batch //= 2
    return Layout(lanes, tasks, tuple(begins), tuple(ends), warps, blocks, batch, batch * an_edge)


@cache
def fits(text: str, size: int) -> str | None:
    """None if an edge's matrices fit the memory that a block shares, for every order, else the reason in words."""
    everything = tuple(range(7))
    orders = [Sweep(text, (X, Y, W, Z), everything, second=True), Sweep(text, (X,), everything, second=True, owner=X)]
    needed = max(layout(sweep, size).shared for sweep in orders)
    if needed > MOST_SHARED_BYTES:
        return f"the matrices of an edge take {needed} bytes of shared memory; a block has {MOST_SHARED_BYTES}"
    return None
