"""How close is close: derived from the program, never tuned."""

from __future__ import annotations

from math import sqrt

import torch

from equikern.program import Program
from equikern.program.symmetric import Symmetric


def tolerance(program: Program | Symmetric, dtype: torch.dtype, order: int = 0, degree: int = 1) -> float:
    """Largest error allowed, relative to the largest magnitude of the float64 reference.

    8 eps(accumulation dtype) sqrt(depth) 4^order, with depth the longest sum into one output for outputs that sum over
    `degree` edges, and order the number of derivatives taken. Half types accumulate in float32 and round once at the
    end: eps of the dtype itself is added.

    >>> from equikern.program import product
    >>> p = product("4x0e", "0e", "4x0e", [(0, 0, 0, "uvu", True)])
    >>> tolerance(p, torch.float64) == 8 * 2.0**-52 * p.depth() ** 0.5
    True
    """
    accumulation = torch.promote_types(dtype, torch.float32)
    rounding = 0.0 if dtype == accumulation else torch.finfo(dtype).eps
    return 8 * torch.finfo(accumulation).eps * sqrt(program.depth(degree)) * 4**order + rounding
