"""The sweeps of a call: checks, buffers, and the order of the launches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor

from equikern.backends.gpu.operands import Table, check, columns_of, rows_of
from equikern.backends.gpu.plans import plan_of
from equikern.backends.gpu.sweep import (
    HB,
    HW,
    HX,
    HY,
    OPENED,
    OPERANDS,
    B,
    Sweep,
    part_columns,
    sweep_units,
    writes_x,
    y_parts,
)
from equikern.errors import ShapeError
from equikern.program import EDGE, SHARED, Program, parse, untabled
from equikern.program.program import W, X, Y, Z

ROWS = 64  # edges of an instance where z has a row an edge and the weights are shared


class Kernels(ABC):
    """What a call needs to know of a sweep, worked out once. `blocks`: of channels of a row, of all units."""

    def __init__(self, sweep: Sweep, blocks: int, chunk: int = 1) -> None:
        program = sweep.program
        self.sweep, self.program, self.blocks = sweep, program, blocks
        self.dims = columns_of(program, sweep.table)
        self.units = sweep_units(sweep)
        self.shared = program.rows[W] == SHARED
        # The gradient of x that a sweep does not write itself is summed, from one for each edge.
        self.part_width, self.sums_x = part_columns(sweep)[1], X in sweep.open and not writes_x(sweep)
        # A block writes its sums over channels; of y that has channels, a unit writes a segment's gradient whole.
        at, count = y_parts(sweep)
        self.parts = {Y: count if sweep.by_channel else blocks, B: blocks}
        # Segments that no path reads or sums are zero.
        xs = {segment.number for unit in self.units for segment in unit.xs}
        zs = {segment.number for unit in self.units for segment in unit.zs}
        self.all_x = len(xs) == len(program.operands[X].irreps)  # type: ignore[arg-type]
        self.all_y = not sweep.by_channel or len(at) == count * len(program.operands[Y].irreps)  # type: ignore[arg-type]
        self.all_z = len(zs) == len(program.operands[Z].irreps)  # type: ignore[arg-type]
        # Edges of a row of the grid where z has a row an edge.
        self.chunk = ROWS if sweep.by_edge and self.shared and W in sweep.open else chunk

    @abstractmethod
    def run(self, values: dict[str, Any], rows: int, dtype: torch.dtype) -> None:
        """Start the sweep over rows; `values` by name: operands, results, the graph's tensors, counts."""

    @abstractmethod
    def run_sum(self, part: Tensor, dx: Tensor, graph: tuple[Tensor, ...]) -> None:
        """Start the sum of the gradients of x that the sweep wrote by edge, over the edges of each row."""


Make = Callable[[Sweep], Kernels]


@cache
def kernels(
    make: Make,
    text: str,
    open: tuple[int, ...],
    given: tuple[int, ...],
    second: bool,
    fixed: bool,
    owner: int = Z,
    table: tuple[int, ...] = (),
) -> Kernels:
    """The kernels that open slots of a base program, of those given, or of its derivative (`second`)."""
    return make(_sweep(text, open, given, second, fixed, owner, table))


def _sweep(
    text: str,
    open: tuple[int, ...],
    given: tuple[int, ...],
    second: bool,
    fixed: bool,
    owner: int = Z,
    table: tuple[int, ...] = (),
) -> Sweep:
    reads = {t for s in open for t in (X, Y, W, Z) if t != s} | ({HX, HY, HW} if second else set())
    if owner == X:
        reads -= {X, HX}
    if table:
        reads |= {B, HB} if second else {B}
    return Sweep(text, open, tuple(s for s in given if s in reads), second, fixed, owner, table)


@cache
def own_pass(text: str, open: tuple[int, ...], given: tuple[int, ...], second: bool, fixed: bool) -> bool:
    """Whether the gradient of x has a sweep of its own, over the edges of a row of x.

    The other way is to write it by edge, and to sum that. It is decided which moves fewer bytes: a sweep of its own
    reads weights, y and cotangents (which caches serve half) once more. Weights from a table take as long as their
    bytes would, or longer.
    """
    program = parse(text)
    if X not in open or program.rows[X] == EDGE:
        return False
    again = (program.dims[W] + program.dims[Y]) * (2 if second else 1) if len(open) > 1 else 0
    return again + program.dims[Z] / 2 < 2 * part_columns(_sweep(text, open, given, second, fixed))[1]


def steps(make: Make, text: str) -> dict[str, Kernels]:
    """The sweeps that a training step takes, by name: those of three orders, and over rows of x where x has its own.

    Where weights come from a table, its factors are opened in their place.
    """
    program = parse(text)
    first, second, weights = tuple(range(4)), tuple(range(7)), W
    table: tuple[int, ...] = ()
    if program.family == "table":
        text, table = untabled(text).text, program.operands[W].offsets
        first, second, weights = (*first, B), (*range(HW), B, HB), B
    own = own_pass(text, (X, Y, weights), first, False, True)
    inner = (Y, weights) if own else (X, Y, weights)
    found = {
        "forward": kernels(make, text, (Z,), first, False, True, Z, table),
        "backward": kernels(make, text, inner, first, False, True, Z, table),
        "double backward": kernels(make, text, (*inner, Z), second, True, True, Z, table),
    }
    if own:
        found["backward of x"] = kernels(make, text, (X,), first, False, True, X, table)
        found["double backward of x"] = kernels(make, text, (X,), second, True, True, X, table)
    return found


def sweep(
    make: Make,
    base: Program,
    operands: list[Tensor],
    index: list[Tensor],
    open: dict[int, int],
    *,
    second: bool = False,
    fixed: bool = True,
    table: Table | None = None,
) -> list[Tensor]:
    """The opened slots (slot: rows) of a base program: operands x y w g and, for `second`, the tangents hx hy hw.

    With a table, w has its rows, and the operands end with factors b and tangents hb (`gpu/table.py`).
    """
    given = [a.contiguous() if a.ndim == 2 and a.shape[1] else None for a in operands]
    like = next(a for a in operands if a.ndim == 2)
    offsets = () if table is None else table.offsets
    counts = rows_of(base, given, index, open, table)
    dims = columns_of(base, offsets)
    check(base, given, counts, like, table)
    asked = tuple(s for s in open if counts[0] and dims[s] and (s == Z or given[Z] is not None))
    found: dict[int, Tensor] = {}
    if asked:
        there = tuple(s for s, a in enumerate(given) if a is not None)
        with torch.cuda.device(like.device) if like.is_cuda else nullcontext():
            if own_pass(base.text, asked, there, second, fixed):
                made = kernels(make, base.text, (X,), there, second, fixed, X, offsets)
                asked = tuple(s for s in asked if s != X)
                if made.units:
                    found |= _launch(made, given, _graph(made, index, counts, table), open, counts, like)
            made = kernels(make, base.text, asked, there, second, fixed, Z, offsets)
            if asked and made.units:
                found |= _launch(made, given, _graph(made, index, counts, table), open, counts, like)
                if made.sums_x:
                    found[X] = _sum_x(made, found[X], index, counts[0], open[X], like)
    return [found[s] if s in found else like.new_zeros(n, dims[s]) for s, n in open.items()]


def _graph(made: Kernels, index: list[Tensor], counts: tuple[int, int, int], table: Table | None) -> dict[str, Tensor]:
    """What a kernel reads of the graph: the row of the other operand of each edge, the edges of each row it owns."""
    base, sweep = made.program, made.sweep
    for tensor in index if table is None else [*index, table.knot]:
        if tensor.dtype != torch.int64 or tensor.ndim != 1:
            raise ShapeError(
                f"an index is {tuple(tensor.shape)} {tensor.dtype}; it must be one-dimensional int64. Make a Graph of "
                "the edges."
            )
    kinds = dict(zip(base.index_kinds, index, strict=False))
    if any(tensor.shape[0] != counts[0] for tensor in kinds.values()):
        sizes = {kind: tensor.shape[0] for kind, tensor in kinds.items()}
        raise ShapeError(f"the index tensors differ in length: {sizes}; give each one entry an edge.")
    graph = {} if table is None else {"knot": table.knot.contiguous()}
    if sweep.indexed:
        graph["x_index" if sweep.owner == Z else "z_index"] = kinds[base.rows[sweep.other]].contiguous()
    if not sweep.by_edge:
        rows = counts[2] if sweep.owner == Z else counts[1]
        graph["ptr"], graph["order"] = plan_of(base, sweep.owner, index, counts[0], rows)
    return graph


def _launch(
    made: Kernels,
    given: list[Tensor | None],
    graph: dict[str, Tensor],
    open: dict[int, int],
    counts: tuple[int, int, int],
    like: Tensor,
) -> dict[int, Tensor]:
    """Run the sweep: its results, those of x by edge (`part_columns`) where they are summed afterwards."""
    (edges, x_rows, z_rows), dims = counts, made.dims
    wide = torch.promote_types(like.dtype, torch.float32)
    owned = z_rows if made.sweep.owner == Z else x_rows
    rows = -(-edges // made.chunk) if made.sweep.by_edge else owned
    results: dict[int, Tensor] = {}
    for slot in made.sweep.open:
        if slot == X and not made.sums_x:
            results[X] = (like.new_empty if made.all_x else like.new_zeros)(open[X], dims[X])
        elif slot == X:
            results[X] = like.new_empty(edges, made.part_width, dtype=wide)
        elif slot in (Y, B):
            # A single part is the result.
            make, many = like.new_empty if slot == B or made.all_y else like.new_zeros, made.parts[slot]
            results[slot] = make(edges, many * dims[slot], dtype=like.dtype if many == 1 else wide)
        elif slot == W:
            make = like.new_empty if made.sweep.fixed and rows else like.new_zeros
            results[W] = make(rows if made.shared else edges, dims[W], dtype=wide if made.shared else like.dtype)
        else:
            results[Z] = (like.new_empty if made.all_z else like.new_zeros)(open[Z], dims[Z])
    if rows:
        values: dict[str, Any] = {OPERANDS[s]: given[s] for s in made.sweep.given} | graph
        values |= {OPENED[s]: a for s, a in results.items()}
        values |= {"edges": edges, "x_rows": x_rows, "z_rows": z_rows}
        values |= {"w_rows": w.shape[0]} if made.sweep.table and (w := given[W]) is not None else {}
        made.run(values, rows, like.dtype)
    for slot in (Y, B):
        if slot in results and (many := made.parts[slot]) > 1:
            results[slot] = results[slot].view(edges, many, dims[slot]).sum(1).to(like.dtype)
    if W in results and made.shared:
        results[W] = results[W].sum(0, keepdim=True).to(like.dtype)
    return results


def _sum_x(made: Kernels, part: Tensor, index: list[Tensor], edges: int, rows: int, like: Tensor) -> Tensor:
    """The gradient of x from its parts by edge."""
    dx = (like.new_empty if made.all_x else like.new_zeros)(rows, made.dims[X])
    if rows:
        graph = plan_of(made.program, X, index, edges, rows) if made.program.rows[X] != EDGE else ()
        made.run_sum(part, dx, graph)
    return dx
