"""`equikern::spline`: the rows of a table that a length reads, and their factors in a B-spline of degree 7.

Piece p of the spline reaches from breaks[p] to breaks[p+1] in n = intervals[p] equal steps and has coefficients c_0 ...
c_(n+6). The table holds, by turns, their differences d_j = c_(j+1) - c_j and c_(j+1), 2n + 12 rows; interval j reads
d_j ... d_(j+6) and c_(j+4): slopes are then sums of differences and do not suffer from the rounding of large, nearly
equal coefficients. The value at r is sum_k b[k] table[knot + OFFSETS[k]], six times continuously differentiable within
a piece. Below the first break the first polynomial goes on; from the last break on, the value there holds. The
derivative of the op is the op at the next order. (C. de Boor, A practical guide to splines, 1978.)
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from equikern import backends
from equikern.backends._spline import POLYNOMIALS, WHOLE, rows_of
from equikern.errors import ShapeError
from equikern.ops.engine import Function, Op

DEGREE = 7
OFFSETS = (0, 2, 4, 6, 7, 8, 10, 12)  # of d_j ... d_(j+3), c_(j+4), d_(j+4) ... d_(j+6)


def _run(backend: str, r: Tensor, breaks: list[float], intervals: list[int], order: int) -> tuple[Tensor, Tensor]:
    if r.ndim != 1:
        raise ShapeError(f"spline: r has shape {tuple(r.shape)}; it reads lengths, (E,).")
    kernel = backends.splines.get(backend)
    return (kernel.spline if kernel else _reference)(r, breaks, intervals, order)


def _reference(r: Tensor, breaks: list[float], intervals: list[int], order: int) -> tuple[Tensor, Tensor]:
    lengths = r.double()
    inside = lengths.clamp(max=breaks[-1])
    ends = _kept(tuple(breaks[1:-1]), torch.float64, r.device)
    piece = (inside.unsqueeze(1) >= ends).sum(1)  # NaN: the first
    counts = _kept(tuple(intervals), torch.int64, r.device)
    begin, end = (_kept(tuple(part), torch.float64, r.device)[piece] for part in (breaks[:-1], breaks[1:]))
    steps = counts[piece] / (end - begin)
    at = (inside - begin) * steps
    interval = torch.minimum(at.nan_to_num().long().clamp(min=0), counts[piece] - 1)
    t = at - interval
    factors = _kept(POLYNOMIALS, torch.float64, r.device) / WHOLE  # (rows, powers)
    for _ in range(order):
        factors = torch.nn.functional.pad(factors[:, 1:] * torch.arange(1, 8, device=r.device), (0, 1))
    b = t.unsqueeze(1) ** torch.arange(8, device=r.device) @ factors.t() * steps.unsqueeze(1) ** order
    if order:
        b = torch.where((lengths > breaks[-1]).unsqueeze(1), 0.0, b)
    b = torch.where(lengths.isnan().unsqueeze(1), lengths.unsqueeze(1), b)
    first = torch.cat([counts.new_zeros(1), rows_of(counts).cumsum(0)[:-1]])
    return b.to(r.dtype), first[piece] + 2 * interval


@lru_cache(maxsize=256)
def _kept(values: tuple[Any, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Constants, kept for each device so that no call copies from the host."""
    return torch.tensor(values, dtype=dtype, device=device)


def _fake(backend: str, r: Tensor, breaks: list[float], intervals: list[int], order: int) -> tuple[Tensor, Tensor]:
    return r.new_empty(r.shape[0], len(OFFSETS)), r.new_empty(r.shape[0], dtype=torch.int64)


class _Spline(Function):
    @staticmethod
    def forward(ctx: Any, backend: str, breaks: list[float], intervals: list[int], order: int, r: Tensor) -> Any:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(r)
        if forward_ad._current_level >= 0:
            ctx.save_for_forward(r)
        ctx.arguments = backend, breaks, intervals, order
        b, knot = _op.below(backend, r, breaks, intervals, order)
        ctx.mark_non_differentiable(knot)
        return b, knot

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return None, None, None, None, None
        (r,) = ctx.saved_tensors
        backend, breaks, intervals, order = ctx.arguments
        slope, _knot = _op(backend, r, breaks, intervals, order + 1)
        return None, None, None, None, (grad * slope).sum(1)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor, None]:
        # Of a dual r that records too: saved as it is, it carries its tangent into the backward.
        backend, breaks, intervals, order = ctx.arguments
        return _change(backend, breaks, intervals, order, ctx.saved_tensors[0], tangents[4]), None


def _change(
    backend: str, breaks: list[float], intervals: list[int], order: int, r: Tensor, tangent: Tensor | None
) -> Tensor:
    """The tangent of b."""
    assert tangent is not None
    return _op(backend, r, breaks, intervals, order + 1)[0] * tangent.unsqueeze(1)  # type: ignore[no-any-return]


def _autograd(backend: str, r: Tensor, breaks: list[float], intervals: list[int], order: int) -> Any:
    if torch.is_grad_enabled() and r.requires_grad:
        return _Spline.apply(backend, breaks, intervals, order, r)
    if forward_ad._current_level >= 0 and (dual := forward_ad.unpack_dual(r)).tangent is not None:
        b, knot = _op(backend, dual.primal, breaks, intervals, order)
        return forward_ad.make_dual(b, _change(backend, breaks, intervals, order, dual.primal, dual.tangent)), knot
    return _op.below(backend, r, breaks, intervals, order)


_op = Op(
    "spline(str backend, Tensor r, float[] breaks, int[] intervals, int order) -> (Tensor b, Tensor knot)",
    _run,
    _fake,
    _autograd,
)


def spline(r: Tensor, breaks: Sequence[float], intervals: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The factors b (E, 8) and first rows knot (E,) of lengths r (E,): the value is sum of b table[knot + OFFSETS].

    breaks (P+1, rising, in the unit of r), intervals (P): see the module. b is six times continuously
    differentiable in r but at the inner breaks. Raises ShapeError for r that is not one-dimensional or
    no floating-point tensor.

    >>> spline(torch.tensor([0.5]), [0.0, 1.0], [2])
    (tensor([[-1.9841e-04, -2.4008e-02, -2.6032e-01, -7.3968e-01,  1.0000e+00,
               2.4008e-02,  1.9841e-04,  0.0000e+00]]), tensor([2]))
    """
    if r.ndim != 1 or not r.is_floating_point():
        raise ShapeError(f"spline: r is {tuple(r.shape)} {r.dtype}; give floating-point lengths (E,).")
    breaks, intervals = [float(x) for x in breaks], [int(n) for n in intervals]
    rising = all(a < b for a, b in itertools.pairwise(breaks))
    if not intervals or len(breaks) != len(intervals) + 1 or not rising or min(intervals) < 1:
        raise ShapeError(f"spline: breaks must rise, with one interval count a piece; got {breaks} and {intervals}.")
    backend = backends.select_spline(r.device.type, r.dtype)
    return _op(backend, r, breaks, intervals, 0)  # type: ignore[no-any-return]
