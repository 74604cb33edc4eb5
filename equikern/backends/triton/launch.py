"""Runs the kernels of a sweep: checks, buffers, launches."""

from __future__ import annotations

import linecache
from contextlib import nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor

from equikern.backends.triton import emit
from equikern.backends.triton.emit import Sweep
from equikern.errors import ShapeError
from equikern.program import EDGE, SHARED, Program
from equikern.program.program import W, X, Y, Z

LANES = 32
WARPS = 1
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
    edges, x_rows, z_rows = _counts(base, given, index, open)
    _check(base, given, (edges, x_rows, z_rows), like)
    asked = [s for s in open if edges and base.dims[s] and (s == Z or given[Z] is not None)]
    key = _key(base, tuple(asked), tuple(s for s, a in enumerate(given) if a is not None), second, fixed)
    if not asked or not emit.sweep_units(key):
        return [like.new_zeros(n, base.dims[s]) for s, n in open.items()]
    with torch.cuda.device(like.device) if like.is_cuda else nullcontext():
        found = _launch(key, given, _graph(base, index, edges, z_rows), open, (edges, x_rows, z_rows), like)
        if X in found:
            found[X] = _sum_x(key, found[X], index, edges, open[X], like)
    return [found[s] if s in found else like.new_zeros(n, base.dims[s]) for s, n in open.items()]


@cache
def _key(base: Program, open: tuple[int, ...], given: tuple[int, ...], second: bool, fixed: bool) -> Sweep:
    sweep = Sweep(base.text, open, given, second, fixed, LANES)
    return sweep._replace(given=tuple(s for s in given if s in _read(sweep)))


def _read(sweep: Sweep) -> set[int]:
    """The slots whose values a sweep uses, of those that could be given."""
    reads = {t for s in sweep.open for t in (X, Y, W, Z) if t != s}
    return reads | ({emit.HX, emit.HY, emit.HW} if sweep.second else set())


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
        edges = next(
            n for s in (X, Y, Z, W) if base.rows[s] == EDGE and (n := rows(s, s + 4 if s < Z else s)) is not None
        )
    x_rows, z_rows = rows(X, emit.HX), rows(Z)
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
    from equikern.backends.triton.plans import plan_of

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
    key: Sweep,
    given: list[Tensor | None],
    graph: dict[str, Tensor],
    open: dict[int, int],
    counts: tuple[int, int, int],
    like: Tensor,
) -> dict[int, Tensor]:
    """Run the sweep: its results, those of x by edge (`emit.part_columns`)."""
    base, (edges, x_rows, z_rows) = key.program, counts
    wide = torch.promote_types(like.dtype, torch.float32)
    many = emit.instances(key)
    by_edge, shared = base.rows[Z] == EDGE, base.rows[W] == SHARED
    chunk = ROWS if by_edge and shared and W in key.open else 1
    rows = -(-edges // chunk) if by_edge else z_rows
    results: dict[int, Tensor] = {}
    for slot in key.open:
        if slot == X:
            results[X] = like.new_empty(edges, emit.part_columns(key)[1], dtype=wide)
        elif slot == Y:
            # A part for each program instance of an edge's row; a single one is the result.
            results[Y] = like.new_empty(edges, many * base.dims[Y], dtype=like.dtype if many == 1 else wide)
        elif slot == W:
            complete = key.fixed and rows
            n = rows if shared else edges
            make = like.new_empty if complete else like.new_zeros
            results[W] = make(n, base.dims[W], dtype=wide if shared else like.dtype)
        else:
            covered = {unit_z.number for unit in emit.sweep_units(key) for unit_z in unit.zs}
            make = like.new_empty if len(covered) == len(base.operands[Z].irreps) else like.new_zeros  # type: ignore[arg-type]
            results[Z] = make(open[Z], base.dims[Z])
    if rows:
        kernel = compiled(emit.sweep_source(key), "sweep_kernel")
        values: dict[str, Any] = {emit.NAMES[s]: given[s] for s in key.given} | graph
        values |= {emit.RESULTS[s]: a for s, a in results.items()} | {"edges": edges, "x_rows": x_rows}
        arguments = [values[n] for n in emit.arguments(key)]
        kernel[(rows * many,)](*arguments, T=_type(like.dtype), ROWS=chunk, num_warps=WARPS)
    if Y in results and many > 1:
        results[Y] = results[Y].view(edges, many, base.dims[Y]).sum(1).to(like.dtype)
    if W in results and shared:
        results[W] = results[W].sum(0, keepdim=True).to(like.dtype)
    return results


def _sum_x(key: Sweep, part: Tensor, index: list[Tensor], edges: int, rows: int, like: Tensor) -> Tensor:
    """The gradient of x from its parts by edge."""
    from equikern.backends.triton.plans import plan_of

    base = key.program
    read = {number for _, number in emit.part_columns(key)[0]}
    make = like.new_empty if len(read) == len(base.operands[X].irreps) else like.new_zeros  # type: ignore[arg-type]
    dx = make(rows, base.dims[X])
    graph = plan_of(base, X, index, edges, rows) if base.rows[X] != EDGE else ()
    kernel = compiled(emit.sum_source(key), "sum_kernel")
    kernel[(rows * emit.sum_blocks(key),)](part, dx, *graph, T=_type(like.dtype), num_warps=1)
    return dx
