"""Linear maps by the C++ kernels: one call for all paths, shared weights or those of each row's species."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from equikern.backends import linear, results
from equikern.backends.extension import _C
from equikern.backends.segments import segments
from equikern.backends.threads import threads
from equikern.errors import ShapeError
from equikern.program import SHARED, Program, parse


@cache
def _kernel(text: str) -> Any:
    (turn, x), (_, z) = segments(text, linear.X), segments(text, linear.Z)
    paths = [(path.in1, path.out, path.columns.start, path.scale) for path in linear.paths(text)]
    columns = parse(text).dims[linear.W]
    return _C.Linear([(s.mul, s.dim) for s in x], [(s.mul, s.dim) for s in z], turn, columns, paths)


def sweep(base: Program, operands: list[Tensor], index: list[Tensor], open: dict[int, int]) -> list[Tensor]:
    """dF/da of F = sum of scale * x w z for each open slot, as `linear.sweep`."""
    like = next(a for a in operands if a.ndim == 2)
    rows = linear.check(base, operands, index, open, like)
    w = operands[linear.W]
    species = None if base.rows[linear.W] == SHARED else index[0].contiguous()
    kinds = 1 if species is None else w.shape[0] if w.ndim == 2 else open.get(linear.W, 0)
    given = [a.contiguous() for a in operands]
    made = {slot: results.empty(like, n, base.dims[slot]) for slot, n in open.items()}
    addresses = [a.data_ptr() if a.ndim == 2 else 0 for a in given]
    asked = [made[slot].data_ptr() if slot in made else 0 for slot in (linear.Z, linear.X, linear.W)]
    try:
        _kernel(base.text).run(
            like.dtype == torch.float64, rows, kinds, 0 if species is None else species.data_ptr(), addresses, asked,
            threads(),
        )  # fmt: skip
    except IndexError as error:
        raise ShapeError(str(error)) from None
    return list(made.values())
