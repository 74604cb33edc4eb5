"""What the operands of a call are to be: their rows and columns, and a check of both."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from equikern.backends.gpu.sweep import HW, HX, HY, B
from equikern.errors import ShapeError
from equikern.program import EDGE, SHARED, Program
from equikern.program.program import W, X, Y, Z


class Table(NamedTuple):
    """Where the weights of edge e lie, if w is a table: in its rows knot[e] + offsets."""

    offsets: tuple[int, ...]
    knot: Tensor


def columns_of(program: Program, offsets: tuple[int, ...]) -> dict[int, int]:
    """Columns of x, y, w, z and of the factors of a table's rows."""
    return dict(enumerate(program.dims)) | {B: len(offsets)}


def rows_of(
    base: Program, given: list[Tensor | None], index: list[Tensor], open: dict[int, int], table: Table | None
) -> tuple[int, int, int]:
    """Edges, rows of x, rows of z."""

    def rows(*slots: int) -> int | None:
        for slot in slots:
            if slot in open:
                return open[slot]
            if slot < len(given) and (a := given[slot]) is not None:
                return a.shape[0]
        return None

    if table is not None:
        edges = table.knot.shape[0]
    elif base.index_kinds:
        edges = index[0].shape[0]
    else:
        by_edge = [s for s in (X, Y, Z, W, HX, HY, HW) if base.rows[s % 4] == EDGE]
        edges = next(n for s in by_edge if (n := rows(s)) is not None)
    x_rows, z_rows = rows(X, HX), rows(Z)
    return edges, edges if x_rows is None else x_rows, edges if z_rows is None else z_rows


def check(
    base: Program, given: list[Tensor | None], counts: tuple[int, int, int], like: Tensor, table: Table | None
) -> None:
    """The last line before the kernels, also for calls of the op itself: what they read must be there."""
    edges, x_rows, z_rows = counts
    dims = columns_of(base, () if table is None else table.offsets)
    expected = {
        X: edges if base.rows[X] == EDGE else x_rows,
        Y: edges,
        W: 1 if base.rows[W] == SHARED else edges,
        Z: edges if base.rows[Z] == EDGE else z_rows,
        B: edges,
    }
    if table is not None and (w := given[W]) is not None:
        expected[W] = max(w.shape[0], table.offsets[-1] + 1)
    for slot, a in enumerate(given):
        if a is None:
            continue
        kind = B if slot >= B else slot % 4
        if a.shape != (expected[kind], dims[kind]) or a.dtype != like.dtype or a.device != like.device:
            raise ShapeError(
                f"slot {slot} is {tuple(a.shape)} {a.dtype} on {a.device}; the program reads "
                f"{(expected[kind], dims[kind])} {like.dtype} on {like.device}.\n  program   {base}"
            )
