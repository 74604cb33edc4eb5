"""The spline's rows and factors in C++ (`csrc/cpu/spline.cpp`)."""

from __future__ import annotations

import torch
from torch import Tensor

from equikern.backends.cpu_harmonics import supports
from equikern.backends.extension import _C
from equikern.errors import BackendError

__all__ = ["spline", "supports"]


def spline(r: Tensor, breaks: list[float], intervals: list[int], order: int) -> tuple[Tensor, Tensor]:
    """b (E, 8), differentiated `order` times, and knot (E,). See ops/spline.py."""
    reason = supports(r.device.type, r.dtype)
    if reason:
        raise BackendError(f"backend 'cpu' cannot run a spline: {reason}; use backend 'reference'.")
    r = r.contiguous()
    b, knot = r.new_empty(r.shape[0], 8), r.new_empty(r.shape[0], dtype=torch.int64)
    _C.spline(
        r.dtype == torch.float64, r.shape[0], r.data_ptr(), breaks, intervals, order, b.data_ptr(), knot.data_ptr()
    )
    return b, knot
