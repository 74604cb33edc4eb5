"""Linear maps between equal irreps as matrix products of torch: one for each path, channels against channels.

Weights are shared by all rows, or rows of an index (of atoms' species) have them together. The same on every device,
and nothing waits for it; on the CPU there is one kernel instead (`cpu_linear`).
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from equikern.backends.segments import Side
from equikern.backends.species_rows import Single, tiled
from equikern.errors import ShapeError
from equikern.program import EDGE, SHARED, Program, parse

X, W, Z = range(3)


class _Path(NamedTuple):
    """A path with weights (m1, m3) in some columns."""

    in1: int
    out: int
    scale: float
    columns: slice
    m1: int
    m3: int


@cache
def paths(text: str) -> list[_Path]:
    """The paths that have channels on both sides."""
    program = parse(text)
    found = []
    for path, columns in zip(program.paths, program.weight_slices, strict=True):
        m1, _, m3 = program.multiplicities(path)
        if m1 * m3:
            found.append(_Path(path.in1, path.out, path.scale, columns, m1, m3))
    return found


def why_not(program: Program) -> str | None:
    """None if the program is a linear map row by row, with weights that are shared, or of an index."""
    x, w, z = program.operands
    if (x.row, z.row) != (EDGE, EDGE) or w.row == EDGE:
        return f"rows are x[{x.row}] w[{w.row}] z[{z.row}]; linear maps are x[edge] w[shared or indexed] z[edge]"
    return None


def sweep(base: Program, operands: list[Tensor], index: list[Tensor], open: dict[int, int]) -> list[Tensor]:
    """dF/da of F = sum of scale * w x z for each open slot; `operands` are x (E, dim), w (1 or species, n), z (E, dim).

    `index` holds the species of the rows where w has more than one.
    """
    like = next(a for a in operands if a.ndim == 2)
    rows = check(base, operands, index, open, like)
    w = operands[W] if operands[W].ndim == 2 else None
    shared = base.rows[W] == SHARED
    groups = Single() if shared else tiled(index[0], open[W] if w is None else w.shape[0])
    sides = {s: Side(base.text, s, groups.gathered(operands[s])) for s in (X, Z) if operands[s].ndim == 2}
    results = {s: Side(base.text, s, groups.empty(like, rows, base.dims[s])) for s in open if s != W}
    dw = like.new_zeros(open[W], base.dims[W]) if W in open else None
    x, z = sides.get(X), sides.get(Z)
    for path in paths(base.text):
        if w is not None:
            weights = w[:, path.columns].view(-1, path.m1, path.m3)
            if Z in results and x is not None:
                out, add = results[Z].into(path.out)
                groups.multiply(x.matrix(path.in1), weights, out, path.scale, add=add)
            if X in results and z is not None:
                out, add = results[X].into(path.in1)
                groups.multiply(z.matrix(path.out), weights.mT, out, path.scale, add=add)
        if dw is not None and x is not None and z is not None:
            out = dw[:, path.columns].view(-1, path.m1, path.m3)
            groups.outer(x.matrix(path.in1), z.matrix(path.out), out, path.scale)
    return [dw if s == W else groups.restored(results[s].finished()) for s in open]  # type: ignore[misc]


def check(base: Program, operands: list[Tensor], index: list[Tensor], open: dict[int, int], like: Tensor) -> int:
    """How many rows x and z have; raises ShapeError unless all is there that native code reads."""
    shared = base.rows[W] == SHARED
    x, w, z = operands
    if shared:
        rows = x.shape[0] if x.ndim == 2 else z.shape[0] if z.ndim == 2 else open.get(X, open.get(Z, 0))
    else:
        rows = check_species(index[0], like)
    kinds = 1 if shared else w.shape[0] if w.ndim == 2 else open.get(W, 0)
    for slot, a, n in ((X, x, rows), (W, w, kinds), (Z, z, rows)):
        wrong = a.ndim == 2 and (a.shape != (n, base.dims[slot]) or a.dtype != like.dtype or a.device != like.device)
        if wrong or open.get(slot, n) != n:
            raise ShapeError(
                f"slot {slot} is {tuple(a.shape)} {a.dtype} on {a.device}, of {open.get(slot, n)} rows; the program "
                f"reads {(n, base.dims[slot])} {like.dtype} on {like.device}.\n  program   {base}"
            )
    return rows


def check_species(species: Tensor, like: Tensor) -> int:
    """The number of rows; raises ShapeError for an index that cannot be one."""
    if species.dtype != torch.int64 or species.ndim != 1 or species.device != like.device:
        raise ShapeError(
            f"the index is {tuple(species.shape)} {species.dtype} on {species.device}; it must be one-dimensional "
            f"int64 on {like.device}."
        )
    return species.shape[0]
