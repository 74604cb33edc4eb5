"""Linear maps between equal irreps as matrix products of torch: one for each path, channels against channels.

Weights are shared by all rows, or rows of an index (of atoms' species) have them together: rows are sorted then.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, addmm, mm

from equikern.backends.cpu_modes import turn_segment
from equikern.backends.cpu_rows import plan
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
def _paths(text: str) -> list[_Path]:
    program = parse(text)
    found = []
    for path, columns in zip(program.paths, program.weight_slices, strict=True):
        m1, _, m3 = program.multiplicities(path)
        if m1 * m3:
            found.append(_Path(path.in1, path.out, path.scale, columns, m1, m3))
    return found


def sweep(base: Program, operands: list[Tensor], index: list[Tensor], open: dict[int, int]) -> list[Tensor]:
    """dF/da of F = sum of scale * w x z for each open slot; `operands` are x (E, dim), w (1 or species, n), z (E, dim).

    `index` holds the species of the rows where w has more than one.
    """
    like = next(a for a in operands if a.ndim == 2)
    rows = _check(base, operands, index, open, like)
    w = operands[W] if operands[W].ndim == 2 else None
    groups = Groups(index[0], open[W] if w is None else w.shape[0]) if base.rows[W] != SHARED else one_group(rows)
    sides = {s: Side(base.text, s, groups.sorted(operands[s])) for s in (X, Z) if operands[s].ndim == 2}
    results = {s: Side(base.text, s, like.new_empty(n, base.dims[s])) for s, n in open.items() if s != W}
    found = like.new_zeros(open[W], base.dims[W]) if W in open else None
    for path in _paths(base.text):
        x, z = sides.get(X), sides.get(Z)
        if w is not None:
            matrices = [w[t, path.columns].view(path.m1, path.m3) for t in groups.present]
            if Z in results and x is not None:
                results[Z].add(path.out, x.matrix(path.in1), matrices, groups, path.scale)
            if X in results and z is not None:
                results[X].add(path.in1, z.matrix(path.out), [m.t() for m in matrices], groups, path.scale)
        if found is not None and x is not None and z is not None:
            for t, part in zip(groups.present, groups.of(x.segments[path.in1].dim), strict=True):
                out = found[t, path.columns].view(path.m1, path.m3)
                multiply(x.matrix(path.in1)[part].t(), z.matrix(path.out)[part], out, path.scale, add=False)
    return [found if s == W else groups.restored(results[s].finished()) for s in open]  # type: ignore[misc]


def _check(base: Program, operands: list[Tensor], index: list[Tensor], open: dict[int, int], like: Tensor) -> int:
    """The last line before native code: the rows of x and z are as many, and what they should be."""
    given = [operands[s].shape[0] for s in (X, Z) if operands[s].ndim == 2]
    rows = next(n for n in (*given, open.get(X), open.get(Z), 0) if n is not None)
    shared = base.rows[W] == SHARED
    if not shared:
        rows = check_species(index[0])
    for slot, a in enumerate(operands):
        n = rows if slot != W else 1 if shared else a.shape[0] if a.ndim == 2 else open.get(W, 0)
        wrong = a.ndim == 2 and (a.shape != (n, base.dims[slot]) or a.dtype != like.dtype or a.device.type != "cpu")
        if wrong or open.get(slot, n) != n:
            raise ShapeError(
                f"slot {slot} is {tuple(a.shape)} {a.dtype} on {a.device}, of {open.get(slot, n)} rows; the program "
                f"reads {(n, base.dims[slot])} {like.dtype} on cpu.\n  program   {base}"
            )
    return rows


def check_species(species: Tensor) -> int:
    """The number of rows; raises ShapeError for an index that cannot be one."""
    if species.dtype != torch.int64 or species.ndim != 1 or species.device.type != "cpu":
        raise ShapeError(
            f"the index is {tuple(species.shape)} {species.dtype} on {species.device}; it must be one-dimensional "
            "int64 on the CPU."
        )
    return species.shape[0]


def multiply(a: Tensor, b: Tensor, out: Tensor, scale: float, *, add: bool) -> None:
    """out = scale a b, or added; the other way round where b is narrow, as in `cpu_modes.multiply`."""
    if b.shape[1] % 16:
        turned = mm(b.t(), a.t()).t()
        if add:
            out.add_(turned, alpha=scale)
        else:
            out.copy_(turned.mul_(scale))
    else:
        # beta = 0: what is in `out` is not read
        addmm(out, a, b, beta=float(add), alpha=scale, out=out)


class Groups:
    """The rows of each species that there is, next to each other in sorted rows."""

    def __init__(self, species: Tensor, count: int) -> None:
        ptr, order = plan(species, species, count, count)
        ends = ptr.tolist()
        self.present = [t for t in range(count) if ends[t + 1] > ends[t]]
        self.ends = [(ends[t], ends[t + 1]) for t in self.present]
        self.order: Tensor | None = None if len(self.present) == 1 else order

    def of(self, dim: int) -> list[slice]:
        """The rows * components of each species."""
        return [slice(first * dim, last * dim) for first, last in self.ends]

    def sorted(self, a: Tensor) -> Tensor:
        """Rows in the order of species."""
        return a.contiguous() if self.order is None else a.index_select(0, self.order)

    def restored(self, a: Tensor) -> Tensor:
        """Rows in the order outside."""
        return a if self.order is None else torch.empty_like(a).index_copy_(0, self.order, a)


def one_group(rows: int) -> Groups:
    """All rows, of one species."""
    groups = Groups.__new__(Groups)
    groups.present, groups.ends, groups.order = [0], [(0, rows)], None
    return groups


class _Segment(NamedTuple):
    """Columns of `mul` channels with `dim` components."""

    start: int
    mul: int
    dim: int


@cache
def _segments(text: str, slot: int) -> tuple[bool, list[_Segment]]:
    """Whether channels are outermost, and the segments of an operand."""
    program = parse(text)
    irreps = program.operands[slot].irreps
    found = [_Segment(s.start, e.mul, e.ir.dim) for e, s in zip(irreps, irreps.slices(), strict=True)]  # type: ignore[union-attr,arg-type]
    return program.layout == "mul_ir", found


class Side:
    """The segments of x or z as matrices (rows * components, channels), each made or filled once."""

    def __init__(self, text: str, slot: int, a: Tensor) -> None:
        self.a, self.rows = a, a.shape[0]
        self.turn, self.segments = _segments(text, slot)
        self.made: dict[int, Tensor] = {}

    def matrix(self, segment: int) -> Tensor:
        """(rows * components, channels) of a segment."""
        made = self.made.get(segment)
        if made is None:
            made = self._empty(segment)
            if self.segments[segment].dim > 1:
                self._move(segment, made, split=True)
        return made

    def _empty(self, segment: int) -> Tensor:
        start, mul, dim = self.segments[segment]
        made = self.a.narrow(1, start, mul) if dim == 1 else self.a.new_empty(self.rows * dim, mul)
        self.made[segment] = made
        return made

    def _move(self, segment: int, made: Tensor, *, split: bool) -> None:
        start, mul, dim = self.segments[segment]
        rows, parts = self.a.narrow(1, start, mul * dim), made.view(self.rows, dim * mul)
        ends = (rows, parts) if split else (parts, rows)
        turn_segment((mul, dim), *ends, turn=self.turn, split=split)

    def add(self, segment: int, a: Tensor, matrices: Sequence[Tensor], groups: Groups, scale: float) -> None:
        """Add scale a b to a segment, b the matrix of each group of rows; before the first it holds nothing."""
        out = self.made.get(segment)
        known = out is not None
        if out is None:
            out = self._empty(segment)
        if groups.order is None:
            multiply(a, matrices[0], out, scale, add=known)
            return
        for part, b in zip(groups.of(self.segments[segment].dim), matrices, strict=True):
            multiply(a[part], b, out[part], scale, add=known)

    def finished(self) -> Tensor:
        """The rows, zero where nothing was added."""
        for segment, (start, mul, dim) in enumerate(self.segments):
            made = self.made.get(segment)
            if made is None:
                self.a.narrow(1, start, mul * dim).zero_()
            elif dim > 1:
                self._move(segment, made, split=False)
        return self.a


def why_not(program: Program) -> str | None:
    """None if the program is a linear map row by row, with weights that are shared, or of an index."""
    x, w, z = program.operands
    if (x.row, z.row) != (EDGE, EDGE) or w.row == EDGE:
        return f"rows are x[{x.row}] w[{w.row}] z[{z.row}]; linear maps are x[edge] w[shared or indexed] z[edge]"
    return None
