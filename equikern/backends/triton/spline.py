"""The spline's rows and factors in Triton: an edge a lane, one kernel for each derivative and number of pieces.

Where a length lies is worked out in float64: an interval is a few hundredths of the whole.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from equikern.backends._spline import POLYNOMIALS, WHOLE, derivative
from equikern.backends.gpu import spline as call
from equikern.backends.triton.kernels import Kernel, float_type, unavailable
from equikern.backends.triton.text import HEADER, Lines
from equikern.errors import BackendError

EDGES = 256  # of a program instance


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None if the kernel takes lengths on a device and of a dtype, else the reason in words."""
    if dtype not in (torch.float32, torch.float64):
        return f"the lengths are {dtype}; the kernel has float32 and float64"
    return unavailable(device, dtype)


@cache
def source(pieces: int, order: int) -> str:
    """The kernel of b, differentiated `order` times, and knot; `table`: as `gpu.spline.pieces_of` has it."""
    out = Lines()
    out.add("e = tl.program_id(0).to(tl.int64) * EDGES + tl.arange(0, EDGES)", "inside = e < edges")
    out.add("length = tl.load(r + e, mask=inside, other=0.0).to(tl.float64)")
    out.add(f"beyond = length > tl.load(table + {4 * pieces})")
    out.add(f"at = tl.where(beyond, tl.load(table + {4 * pieces}), length)")
    names = ("begin", "steps", "last", "first")
    out.add(*(f"{name} = tl.load(table + {c})" for c, name in enumerate(names)))
    for piece in range(1, pieces):
        out.add(f"later = at >= tl.load(table + {4 * piece})")
        out.add(*(f"{n} = tl.where(later, tl.load(table + {4 * piece + c}), {n})" for c, n in enumerate(names)))
    # NaN: the first interval, with factors that are NaN.
    out.add("at = (at - begin) * steps", "interval = tl.where(at > 0, tl.minimum(at, last), 0.0).to(tl.int64)")
    out.add("t = (at - interval.to(tl.float64)).to(T)")
    out.add("tl.store(knot + e, first.to(tl.int64) + 2 * interval, mask=inside)")
    scale = " * ".join(["steps"] * order)
    out.add(f"scale = ({scale} / {WHOLE}).to(T)" if order else f"scale = tl.full([EDGES], 1 / {WHOLE}, T)")
    out.add(*["scale = tl.where(beyond, 0.0, scale)"] * bool(order))
    out.add("scale = tl.where(length == length, scale, float('nan'))")
    for c, polynomial in enumerate(POLYNOMIALS):
        *lower, value = [f"{a}.0" for a in derivative(polynomial, order)] or ["0.0"]
        for a in reversed(lower):
            value = f"({value} * t + {a})"
        out.add(f"tl.store(b + e * {len(POLYNOMIALS)} + {c}, {value} * scale, mask=inside)")
    head = "def spline_kernel(r, table, b, knot, edges, T: tl.constexpr, EDGES: tl.constexpr):"
    return "\n".join([HEADER + '@triton.jit(do_not_specialize=["edges"])', head, *out.lines]) + "\n"


@cache
def _kernel(pieces: int, order: int) -> Kernel:
    return Kernel(source(pieces, order), "spline_kernel", num_warps=4)


def spline(r: Tensor, breaks: list[float], intervals: list[int], order: int) -> tuple[Tensor, Tensor]:
    """b (E, 8), differentiated `order` times, and knot (E,). See ops/spline.py."""
    if reason := supports(r.device.type, r.dtype):
        raise BackendError(f"backend 'triton' cannot run a spline: {reason}; use backend 'reference'.")

    def start(lengths: Tensor, pieces: Tensor, b: Tensor, knot: Tensor) -> None:
        edges = lengths.shape[0]
        arguments: list[Tensor | int] = [lengths, pieces, b, knot, edges]
        _kernel(len(intervals), order)(-(-edges // EDGES), arguments, float_type(r.dtype), EDGES)

    return call.spline(start, r, breaks, intervals)
