"""The spline's rows and factors in CUDA: emits the polynomials for `spline.cuh`."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from equikern.backends import cuda
from equikern.backends._spline import POLYNOMIALS, WHOLE, derivative
from equikern.backends.cuda import driver
from equikern.backends.cuda.launch import REALS
from equikern.backends.gpu import spline as call
from equikern.errors import BackendError

THREADS = 128


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None if the kernel takes lengths on a device and of a dtype, else the reason in words."""
    return cuda.unavailable(device, dtype)


@cache
def source(pieces: int, order: int, real: str) -> str:
    """The kernel of b, differentiated `order` times, and knot."""
    lines = []
    for row, polynomial in enumerate(POLYNOMIALS):
        factors = ", ".join(f"T({a})" for a in derivative(polynomial, order) or (0,))
        lines.append(f"    to[{row}] = scale * polynomial(t, {factors});")
    return f"""#include "spline.cuh"
using namespace eqk;
using T = {real};
EQK_KERNEL(spline_kernel, {THREADS}, Lengths<T>) {{
  spline<{pieces}, {order}, {WHOLE}>(argument, Index(blockIdx.x) * {THREADS} + threadIdx.x, [](T t, T scale, T* to) {{
{chr(10).join(lines)}
  }});
}}
"""


def spline(r: Tensor, breaks: list[float], intervals: list[int], order: int) -> tuple[Tensor, Tensor]:
    """b (E, 8), differentiated `order` times, and knot (E,). See ops/spline.py."""
    if reason := supports(r.device.type, r.dtype):
        raise BackendError(f"backend 'cuda' cannot run a spline: {reason}; use backend 'reference'.")
    made = source(len(intervals), order, REALS[r.dtype])

    def start(*tensors: Tensor) -> None:
        # The arguments are those of `Lengths` in spline.cuh.
        edges = tensors[0].shape[0]
        words = [*(tensor.data_ptr() for tensor in tensors), edges]
        driver.start(made, "spline_kernel", (-(-edges // THREADS), 1), THREADS, words)

    return call.spline(start, r, breaks, intervals)
