"""Runs the kernels of a sweep: checks, buffers, launches."""

from __future__ import annotations

import linecache
from contextlib import nullcontext
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor

from equikern.backends.triton import emit
from equikern.backends.triton.emit import HW, HX, HY, Sweep
from equikern.backends.triton.plans import plan_of
from equikern.errors import ShapeError
from equikern.program import EDGE, SHARED, Program
from equikern.program.program import W, X, Y, Z

LANES = 32
AHEAD = False
OPTIONS: dict[str, Any] = {}
ROWS = 64  # edges of a program instance where z has a row an edge and the weights are shared


@cache
def compiled(source: str, name: str) -> Any:
    """The kernel `name` of an emitted source. Triton reads sources back, so this one is kept where inspect looks."""
    file = f"<equikern {name} {abs(hash(source)):x}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    scope: dict[str, Any] = {"__name__": f"equikern.emitted.{name}"}
    exec(compile(source, file, "exec"), scope)
    return scope[name]


@cache
def _type(dtype: torch.dtype) -> Any:
    import triton.language as tl

    return tl.float64 if dtype == torch.float64 else tl.float32


class Kernels:
    """What a call needs to know of a sweep, worked out once."""

    def __init__(self, sweep: Sweep) -> None:
        program = sweep.program
        self.sweep, self.program, self.dims = sweep, program, program.dims
        self.units = emit.sweep_units(sweep)
        self.indexed_x, self.indexed_z = program.rows[X] != EDGE, program.rows[Z] != EDGE
        self.shared = program.rows[W] == SHARED
        self.instances = emit.instances(sweep)
        self.part_width = emit.part_columns(sweep)[1]
        self.sum_blocks = emit.sum_blocks(sweep)
        # Segments that no path reads or sums, and weights of paths that take no part, are zero.
        xs = {segment.number for unit in self.units for segment in unit.xs}
        zs = {segment.number for unit in self.units for segment in unit.zs}
        self.all_x = len(xs) == len(program.operands[X].irreps)  # type: ignore[arg-type]
        self.all_z = len(zs) == len(program.operands[Z].irreps)  # type: ignore[arg-type]
        self.chunk = ROWS if not self.indexed_z and self.shared and W in sweep.open else 1

    @cached_property
    def arguments(self) -> tuple[str, ...]:
        """Names of the sweep kernel's arguments."""
        return emit.arguments(self.sweep)

    @cached_property
    def sweep_kernel(self) -> Any:
        """Compiled on the first launch for each dtype."""
        return compiled(emit.sweep_source(self.sweep), "sweep_kernel")

    @cached_property
    def sum_kernel(self) -> Any:
        """Compiled on the first launch for each dtype."""
        return compiled(emit.sum_source(self.sweep), "sum_kernel")


@cache
def kernels(text: str, open: tuple[int, ...], given: tuple[int, ...], second: bool, fixed: bool) -> Kernels:
    """The kernels that open slots of a base program, of those given, or of its derivative (`second`)."""
    reads = {t for s in open for t in (X, Y, W, Z) if t != s} | ({HX, HY, HW} if second else set())
    return Kernels(Sweep(text, open, tuple(s for s in given if s in reads), second, fixed, LANES, AHEAD))


def sweep(
    base: Program,
    operands: list[Tensor],
    index: list[Tensor],
    open: dict[int, int],
    *,
    second: bool = False,
    fixed: bool = True,
) -> list[Tensor]:
    """The opened slots (slot: rows) of a base program: operands x y w g and, for `second`, the tangents hx hy hw."""
    given = [a.contiguous() if a.ndim == 2 and a.shape[1] else None for a in operands]
    like = next(a for a in operands if a.ndim == 2)
    counts = _counts(base, given, index, open)
    _check(base, given, counts, like)
    edges = counts[0]
    asked = tuple(s for s in open if edges and base.dims[s] and (s == Z or given[Z] is not None))
    found: dict[int, Tensor] = {}
    if asked:
        made = kernels(base.text, asked, tuple(s for s, a in enumerate(given) if a is not None), second, fixed)
        if made.units:
            graph = _graph(base, index, edges, counts[2])
            with torch.cuda.device(like.device) if like.is_cuda else nullcontext():
                found = _launch(made, given, graph, open, counts, like)
                if X in found:
                    found[X] = _sum_x(made, found[X], index, edges, open[X], like)
    return [found[s] if s in found else like.new_zeros(n, base.dims[s]) for s, n in open.items()]


def _counts(
    base: Program, given: list[Tensor | None], index: list[Tensor], open: dict[int, int]
) -> tuple[int, int, int]:
    """Edges, rows of x, rows of z."""

    def rows(*slots: int) -> int | None:
        for slot in slots:
            if slot in open:
                return open[slot]
            if slot < len(given) and (a := given[slot]) is not None:
                return a.shape[0]
        return None

    if base.index_kinds:
        edges = index[0].shape[0]
    else:
        by_edge = [s for s in (X, Y, Z, W, HX, HY, HW) if base.rows[s % 4] == EDGE]
        edges = next(n for s in by_edge if (n := rows(s)) is not None)
    x_rows, z_rows = rows(X, HX), rows(Z)
    return edges, edges if x_rows is None else x_rows, edges if z_rows is None else z_rows


def _check(base: Program, given: list[Tensor | None], counts: tuple[int, int, int], like: Tensor) -> None:
    """The last line before the kernels, also for calls of the op itself: what they read must be there."""
    edges, x_rows, z_rows = counts
    expected = [
        edges if base.rows[X] == EDGE else x_rows,
        edges,
        1 if base.rows[W] == SHARED else edges,
        edges if base.rows[Z] == EDGE else z_rows,
    ]
    for slot, a in enumerate(given):
        if a is None:
            continue
        kind = slot % 4
        if a.shape != (expected[kind], base.dims[kind]) or a.dtype != like.dtype or a.device != like.device:
            raise ShapeError(
                f"slot {slot} is {tuple(a.shape)} {a.dtype} on {a.device}; the program reads "
                f"{(expected[kind], base.dims[kind])} {like.dtype} on {like.device}.\n  program   {base}"
            )


def _graph(base: Program, index: list[Tensor], edges: int, z_rows: int) -> dict[str, Tensor]:
    """What the kernels read of the graph: the row of x of each edge, the edges of each row of z."""
    for tensor in index:
        if tensor.dtype != torch.int64 or tensor.ndim != 1:
            raise ShapeError(
                f"an index is {tuple(tensor.shape)} {tensor.dtype}; it must be one-dimensional int64. Make a Graph of "
                "the edges."
            )
    kinds = dict(zip(base.index_kinds, index, strict=False))
    if any(tensor.shape[0] != edges for tensor in kinds.values()):
        sizes = {kind: tensor.shape[0] for kind, tensor in kinds.items()}
        raise ShapeError(f"the index tensors differ in length: {sizes}; give each one entry an edge.")
    graph = {}
    if base.rows[X] != EDGE:
        graph["x_index"] = kinds[base.rows[X]].contiguous()
    if base.rows[Z] != EDGE:
        graph["ptr"], graph["order"] = plan_of(base, Z, index, edges, z_rows)
    return graph


def _launch(
    made: Kernels,
    given: list[Tensor | None],
    graph: dict[str, Tensor],
    open: dict[int, int],
    counts: tuple[int, int, int],
    like: Tensor,
) -> dict[int, Tensor]:
    """Run the sweep: its results, those of x by edge (`emit.part_columns`)."""
    (edges, x_rows, z_rows), dims, many = counts, made.dims, made.instances
    wide = torch.promote_types(like.dtype, torch.float32)
    rows = z_rows if made.indexed_z else -(-edges // made.chunk)
    results: dict[int, Tensor] = {}
    for slot in made.sweep.open:
        if slot == X:
            results[X] = like.new_empty(edges, made.part_width, dtype=wide)
        elif slot == Y:
            # A part for each program instance of an edge's row; a single one is the result.
            results[Y] = like.new_empty(edges, many * dims[Y], dtype=like.dtype if many == 1 else wide)
        elif slot == W:
            make = like.new_empty if made.sweep.fixed and rows else like.new_zeros
            results[W] = make(rows if made.shared else edges, dims[W], dtype=wide if made.shared else like.dtype)
        else:
            results[Z] = (like.new_empty if made.all_z else like.new_zeros)(open[Z], dims[Z])
    if rows:
        values: dict[str, Any] = {emit.NAMES[s]: given[s] for s in made.sweep.given} | graph
        values |= {emit.RESULTS[s]: a for s, a in results.items()}
        values |= {"edges": edges, "x_rows": x_rows}
        arguments = [values[n] for n in made.arguments]
        made.sweep_kernel[(rows * many,)](*arguments, T=_type(like.dtype), ROWS=made.chunk, num_warps=1, **OPTIONS)
    if Y in results and many > 1:
        results[Y] = results[Y].view(edges, many, dims[Y]).sum(1).to(like.dtype)
    if W in results and made.shared:
        results[W] = results[W].sum(0, keepdim=True).to(like.dtype)
    return results


def _sum_x(made: Kernels, part: Tensor, index: list[Tensor], edges: int, rows: int, like: Tensor) -> Tensor:
    """The gradient of x from its parts by edge."""
    dx = (like.new_empty if made.all_x else like.new_zeros)(rows, made.dims[X])
    if rows:
        graph = plan_of(made.program, X, index, edges, rows) if made.indexed_x else ()
        made.sum_kernel[(rows * made.sum_blocks,)](part, dx, *graph, T=_type(like.dtype), num_warps=1)
    return dx
