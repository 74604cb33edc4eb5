"""`equikern::radial`: a radial basis times a cutoff in one op, whose derivative is the op at the next order.

Where a kernel runs it (on a CUDA device) a step takes one launch an order of derivative, instead of dozens; elsewhere
`radial_embedding` is the functions of `ops.radial`, which are what the kernel must agree with.
"""

from __future__ import annotations

from math import isfinite, pi, sqrt
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from equikern import backends
from equikern.backends._radial import BASES, CUTOFFS, RadialSpec, parse_radial
from equikern.errors import BackendError, EquikernError, ShapeError
from equikern.ops import radial
from equikern.ops.engine import Function, Op, in_float32


def _run(spec: str, backend: str, r: Tensor, order: int) -> Tensor:
    if r.ndim != 1:
        raise ShapeError(f"radial: r has shape {tuple(r.shape)}; it reads lengths, (E,).")
    reason = backends.triton_radial.supports(r.device.type, r.dtype) if backend == "triton" else "it has no kernel"
    if reason is None and order > backends.triton_radial.ORDERS:
        reason = f"its kernels have derivatives up to order {backends.triton_radial.ORDERS}"
    if reason is not None:
        raise BackendError(
            f"backend {backend!r} cannot run a radial embedding's derivative {order}: {reason}; use "
            "equikern.backend('reference')."
        )
    return backends.triton_radial.radial(spec, r, order)


def functions(spec: RadialSpec, r: Tensor) -> Tensor:
    """(..., n) of lengths (...), in torch."""
    if spec.basis == "bessel":
        found = radial.bessel(r, spec.n, spec.r_max, "schnetpack") * spec.factor
    else:
        found = radial.gaussian(r, spec.n, spec.r_max) * spec.factor
    if spec.cutoff == "none":
        return found
    polynomial = spec.cutoff == "polynomial"
    c = radial.polynomial_cutoff(r, spec.r_max, spec.p) if polynomial else radial.cosine_cutoff(r, spec.r_max)
    return found * c.unsqueeze(-1)


def _fake(spec: str, backend: str, r: Tensor, order: int) -> Tensor:
    return r.new_empty(r.shape[0], parse_radial(spec).n)


class _Radial(Function):
    @staticmethod
    def forward(ctx: Any, spec: str, backend: str, order: int, r: Tensor) -> Tensor:
        ctx.save_for_backward(r)
        if forward_ad._current_level >= 0:
            ctx.save_for_forward(r)
        ctx.arguments = spec, backend, order
        return _op.below(spec, backend, r, order)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        spec, backend, order = ctx.arguments
        return None, None, None, (grad * _op(spec, backend, ctx.saved_tensors[0], order + 1)).sum(1)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        # Of a dual r that records too: saved as it is, it carries its tangent into the backward.
        spec, backend, order = ctx.arguments
        return _op(spec, backend, ctx.saved_tensors[0], order + 1) * tangents[3].unsqueeze(1)  # type: ignore[no-any-return]


def _autograd(spec: str, backend: str, r: Tensor, order: int) -> Tensor:
    if torch.is_grad_enabled() and r.requires_grad:
        return _Radial.apply(spec, backend, order, r)  # type: ignore[no-any-return]
    if forward_ad._current_level >= 0 and (dual := forward_ad.unpack_dual(r)).tangent is not None:
        change = _op(spec, backend, dual.primal, order + 1) * dual.tangent.unsqueeze(1)
        return forward_ad.make_dual(_op(spec, backend, dual.primal, order), change)
    return _op.below(spec, backend, r, order)  # type: ignore[no-any-return]


_op = Op("radial(str spec, str backend, Tensor r, int order) -> Tensor", _run, _fake, _autograd)


@in_float32
def radial_embedding(
    r: Tensor,
    n: int,
    r_max: float,
    *,
    basis: str = "bessel",
    prefactor: str = "mace",
    cutoff: str = "polynomial",
    p: int = 6,
    scale: float = 1.0,
) -> Tensor:
    """A radial basis times a cutoff: lengths r (E,) -> (E, n), differentiable to any order.

    basis: "bessel", `ops.radial.bessel` with its prefactor, or "gaussian"; cutoff: "polynomial" with its p, "cosine",
    or "none", of `ops.radial`, where their sources are; all times `scale`. r and r_max are in one unit.
    Raises EquikernError for names and numbers that are none of these, ShapeError for r that is not one-dimensional.

    >>> radial_embedding(torch.tensor([0.0, 2.5, 5.0]), 2, 5.0, prefactor="nequip").abs().round(decimals=4)
    tensor([[1.0000, 2.0000],
            [0.5446, 0.0000],
            [0.0000, 0.0000]])
    """
    least = 2 if basis == "gaussian" else 1
    radial.check("radial_embedding", r, r_max, n, least)
    if r.ndim != 1:
        raise ShapeError(f"radial_embedding: r has shape {tuple(r.shape)}; give lengths (E,).")
    for what, given, known in (
        ("basis", basis, BASES),
        ("cutoff", cutoff, CUTOFFS),
        ("prefactor", prefactor, radial.PREFACTORS),
    ):
        if given not in known:
            raise EquikernError(f"radial_embedding: unknown {what} {given!r}; use one of {', '.join(known)}.")
    if p != int(p) or p < 2 or not isfinite(scale):
        raise EquikernError(f"radial_embedding: p is an integer >= 2 and scale finite; got {p!r} and {scale!r}.")
    if basis == "bessel":
        scale *= {"mace": sqrt(2 / r_max), "schnetpack": 1.0, "nequip": r_max / pi}[prefactor]
    spec = RadialSpec(basis, n, float(r_max), float(scale), cutoff, int(p))
    backend = backends.select_radial(r.device.type, r.dtype)
    return functions(spec, r) if backend == "reference" else _op(spec.text, backend, r, 0)
