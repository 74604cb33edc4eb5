"""Products in every connection mode on the CPU, row by row, and their derivatives along tangents: one call of C++.

All summands of a derivative read a block of rows together; those that read the same weights and z are mixed by these
once (`csrc/cpu/modes.inl`). Operands of other row kinds are gathered first, and results summed into their rows.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from equikern.backends import by_edge, results
from equikern.backends._derived import base_of
from equikern.backends.extension import _C
from equikern.backends.segments import segments
from equikern.backends.threads import threads
from equikern.program import SHARED, Program, parse, wigner_3j
from equikern.program.program import W, X, Y, Z

Summands = tuple[int, int, bool, list[tuple[int, int]]]  # slots of w and z, whether unweighted paths take part, x and y


class _Form(NamedTuple):
    """A program for the kernels: what each slot holds (x y w z), its summands, its paths."""

    kinds: list[int]
    summands: list[Summands]
    coupling: Any


def sweep(program: Program, operands: list[Tensor], index: list[Tensor], open: dict[int, int]) -> list[Tensor]:
    """dF/da for each open slot of a product or of its derivative along tangents."""
    form = _form(program.text)
    given = [a if a.ndim == 2 and s in _reads(program.text, tuple(open)) else None for s, a in enumerate(operands)]
    like = next(a for a in operands if a.ndim == 2)
    where = by_edge.places(program, index, like)
    edges = by_edge.edges(program, given, where, open)
    by_edge.check(program, given, edges, like)
    rows = [None if a is None else by_edge.gathered(program, s, a, where, edges) for s, a in enumerate(given)]
    shared = program.rows[W] == SHARED
    made = {
        slot: results.empty(like, 1 if shared and form.kinds[slot] == W else edges, program.dims[slot]) for slot in open
    }
    form.coupling.run(
        like.dtype == torch.float64, edges, shared, form.kinds, form.summands,
        [0 if a is None else a.data_ptr() for a in rows],
        [made[s].data_ptr() if s in made else 0 for s in range(len(operands))],
        threads(),
    )  # fmt: skip
    return [by_edge.summed(program, s, made[s], where, n, like) for s, n in open.items()]


@cache
def _form(text: str) -> _Form:
    program = parse(text)
    kinds = list(range(len(program.operands)))
    for group in program.derived:
        kinds += [kinds[slot] for slot in group]
    found: dict[tuple[int, int, bool], list[tuple[int, int]]] = {}
    for slots in program.expansions:
        # The weight 1 of an unweighted path is no operand: along tangents of w it is gone.
        found.setdefault((slots[W], slots[Z], slots[W] == W), []).append((slots[X], slots[Y]))
    summands = [(*read, xy) for read, xy in found.items()]
    return _Form(kinds, summands, _coupling(base_of(program).text))


@cache
def _coupling(text: str) -> Any:
    program = parse(text)
    x, y, z = (program.operands[slot].irreps for slot in (X, Y, Z))
    paths = []
    for path, columns in zip(program.paths, program.weight_slices, strict=True):
        symbol = wigner_3j(x[path.in1].ir.l, y[path.in2].ir.l, z[path.out].ir.l)  # type: ignore[index,union-attr]
        cells = [(int(i), int(j), int(k), path.scale * float(symbol[i, j, k])) for i, j, k in np.argwhere(symbol)]
        paths.append((path.in1, path.in2, path.out, path.mode, columns.start if path.weighted else -1, cells))
    (turn, *_), sizes = zip(*(segments(text, slot) for slot in (X, Y, Z)), strict=True)
    return _C.Coupling(*([(s.mul, s.dim) for s in of] for of in sizes), turn, program.dims[W], paths)


@cache
def _reads(text: str, open: tuple[int, ...]) -> frozenset[int]:
    return parse(text).reads(open)
