"""`equikern::gate`: activations of scalars, and of gates that multiply irreps, as one op whose every derivative is one.

out = f(s) | f(g) * t: scalars s, gates g (one a channel) and gated irreps t are columns of x, mul_ir (e3nn's `Gate`).
With G(x, z) = z . out, `gate_backward` is dG/dx and `gate_double_backward` the two derivatives of h . dG/dx; those of
the last (third order) are taken by autograd through it: it is made of torch's functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from equikern.errors import BackendError, ProgramError, ShapeError
from equikern.ops.engine import Op, in_float32, wanted


class Part(NamedTuple):
    """`scale * act` of `mul` columns of x from `start` on; with `dim` > 0 they are gates of (mul, dim) at `gated`."""

    start: int
    mul: int
    act: str
    scale: float = 1.0
    gated: int = 0
    dim: int = 0


# --- activations, their first and second derivatives


def _silu(order: int, x: Tensor) -> Tensor:
    if order == 0:
        return torch.nn.functional.silu(x)
    s = x.sigmoid()
    if order == 1:
        return s * (1 + x * (1 - s))
    return s * (1 - s) * (2 + x * (1 - 2 * s))


def _tanh(order: int, x: Tensor) -> Tensor:
    t = x.tanh()
    return (t, 1 - t * t, -2 * t * (1 - t * t))[order]


def _sigmoid(order: int, x: Tensor) -> Tensor:
    s = x.sigmoid()
    return (s, s * (1 - s), s * (1 - s) * (1 - 2 * s))[order]


def _shifted_softplus(order: int, x: Tensor) -> Tensor:
    return torch.nn.functional.softplus(x) - math.log(2) if order == 0 else _sigmoid(order - 1, x)


def _abs(order: int, x: Tensor) -> Tensor:
    return (x.abs, x.sign, lambda: torch.zeros_like(x))[order]()


def _identity(order: int, x: Tensor) -> Tensor:
    return (lambda: x, lambda: torch.ones_like(x), lambda: torch.zeros_like(x))[order]()


ACTIVATIONS: dict[str, Callable[[int, Tensor], Tensor]] = {
    "silu": _silu,
    "tanh": _tanh,
    "sigmoid": _sigmoid,
    "ssp": _shifted_softplus,
    "abs": _abs,
    "identity": _identity,
}


# --- what a specification says


class Run(NamedTuple):
    """Adjacent columns with one activation, and the parts that read them, in the order of columns."""

    start: int
    width: int
    act: str
    scale: float
    parts: tuple[int, ...]


class _Layout(NamedTuple):
    columns: int
    parts: tuple[Part, ...]
    runs: tuple[Run, ...]
    widths: tuple[int, ...]  # of the parts in the output
    order: tuple[tuple[int, int, int], ...]  # (first column of x, 0, run) and (first column of x, 1, part): all of x


@lru_cache(maxsize=256)
def gate_spec(columns: int, parts: tuple[Part, ...]) -> str:
    """The text of a gate of x with so many columns, which the parts read once each; raises ProgramError otherwise."""
    for part in parts:
        if part.act not in ACTIVATIONS:
            raise ProgramError(f"unknown activation {part.act!r}; use one of {', '.join(ACTIVATIONS)}.")
    ends = sorted((p.start, p.start + p.mul) for p in parts)
    ends += sorted((p.gated, p.gated + p.mul * p.dim) for p in parts if p.dim)
    ends.sort()
    if [0, *(b for _, b in ends)] != [*(a for a, _ in ends), columns]:
        raise ProgramError(f"the parts of a gate read each of {columns} columns once; these read {ends}.")
    return f"{columns}: " + "; ".join(" ".join(str(v) for v in part) for part in parts)


@lru_cache(maxsize=256)
def _parse(spec: str) -> _Layout:
    head, _, body = spec.partition(": ")
    parts = []
    for entry in body.split("; "):
        start, mul, act, scale, gated, dim = entry.split()
        parts.append(Part(int(start), int(mul), act, float(scale), int(gated), int(dim)))
    runs: list[Run] = []
    for n in sorted(range(len(parts)), key=lambda n: parts[n].start):
        p = parts[n]
        last = runs[-1] if runs else None
        if last and (last.start + last.width, last.act, last.scale) == (p.start, p.act, p.scale):
            runs[-1] = last._replace(width=last.width + p.mul, parts=(*last.parts, n))
        else:
            runs.append(Run(p.start, p.mul, p.act, p.scale, (n,)))
    order = [(run.start, 0, n) for n, run in enumerate(runs)] + [(p.gated, 1, n) for n, p in enumerate(parts) if p.dim]
    widths = tuple(p.mul * (p.dim or 1) for p in parts)
    return _Layout(int(head), tuple(parts), tuple(runs), widths, tuple(sorted(order)))


# --- the computation


def _activated(layout: _Layout, x: Tensor, order: int) -> list[Tensor]:
    """Of each part, the derivative of its activation, scaled: (N, mul)."""
    found: list[Any] = [None] * len(layout.parts)
    for run in layout.runs:
        a = ACTIVATIONS[run.act](order, x[:, run.start : run.start + run.width])
        a = a * run.scale if run.scale != 1 else a
        for n, piece in zip(run.parts, a.split([layout.parts[n].mul for n in run.parts], 1), strict=True):
            found[n] = piece
    return found


def _gated(x: Tensor, part: Part) -> Tensor:
    """(N, mul, dim): what a part multiplies."""
    return x[:, part.gated : part.gated + part.mul * part.dim].unflatten(1, (part.mul, part.dim))


def _assembled(layout: _Layout, scalars: list[Tensor], gated: list[Tensor | None]) -> Tensor:
    """(N, columns of x) from what belongs to the activated and to the gated columns of each part."""
    pieces: list[Tensor] = []
    for _, is_gated, n in layout.order:
        if is_gated:
            pieces.append(gated[n].flatten(1))  # type: ignore[union-attr]
        else:
            pieces += [scalars[k] for k in layout.runs[n].parts]
    return torch.cat(pieces, 1)


def _forward(spec: str, x: Tensor) -> Tensor:
    layout = _check(spec, x)
    a = _activated(layout, x, 0)
    pairs = zip(layout.parts, a, strict=True)
    return torch.cat([(_gated(x, p) * f.unsqueeze(2)).flatten(1) if p.dim else f for p, f in pairs], 1)


def _backward(spec: str, x: Tensor, z: Tensor) -> Tensor:
    layout = _check(spec, x, z)
    a, slopes = _activated(layout, x, 0), _activated(layout, x, 1)
    scalars: list[Tensor] = []
    gated: list[Tensor | None] = []
    for p, f, slope, part in zip(layout.parts, a, slopes, z.split(layout.widths, 1), strict=True):
        shaped = part.unflatten(1, (p.mul, p.dim)) if p.dim else None
        scalars.append(slope * (part if shaped is None else (shaped * _gated(x, p)).sum(2)))
        gated.append(None if shaped is None else shaped * f.unsqueeze(2))
    return _assembled(layout, scalars, gated)


def _double_backward(
    spec: str, x: Tensor, z: Tensor, h: Tensor, need_x: bool = True, need_z: bool = True
) -> tuple[Tensor, Tensor]:
    layout = _check(spec, x, z, h)
    a, slopes = _activated(layout, x, 0), _activated(layout, x, 1)
    bends = _activated(layout, x, 2) if need_x else a
    scalars: list[Tensor] = []
    gated: list[Tensor | None] = []
    dz: list[Tensor] = []
    for p, f, slope, bend, part in zip(layout.parts, a, slopes, bends, z.split(layout.widths, 1), strict=True):
        hs = h[:, p.start : p.start + p.mul]
        shaped = part.unflatten(1, (p.mul, p.dim)) if p.dim else None
        if need_z:
            along = hs * slope
            dz.append(
                along if not p.dim else (along.unsqueeze(2) * _gated(x, p) + _gated(h, p) * f.unsqueeze(2)).flatten(1)
            )
        if need_x:
            inner = part if shaped is None else (shaped * _gated(x, p)).sum(2)
            second = hs * bend * inner
            scalars.append(second if shaped is None else second + slope * (shaped * _gated(h, p)).sum(2))
            gated.append(None if shaped is None else shaped * (hs * slope).unsqueeze(2))
    return (
        _assembled(layout, scalars, gated) if need_x else x.new_empty(0, layout.columns),
        torch.cat(dz, 1) if need_z else x.new_empty(0, sum(layout.widths)),
    )


def _check(spec: str, x: Tensor, z: Tensor | None = None, h: Tensor | None = None) -> _Layout:
    layout = _parse(spec)
    for name, a, columns in (("x", x, layout.columns), ("z", z, sum(layout.widths)), ("h", h, layout.columns)):
        if a is None:
            continue
        if a.ndim != 2 or a.shape[1] != columns or a.shape[0] != x.shape[0]:
            raise ShapeError(f"gate: operand {name!r} has shape {tuple(a.shape)}; the gate reads (N, {columns}).")
        if a.dtype != x.dtype or a.device != x.device or not a.is_floating_point():
            raise ShapeError(f"gate: operand {name!r} is {a.dtype} on {a.device}, x {x.dtype} on {x.device}.")
    return layout


def _fake_forward(spec: str, x: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], sum(_parse(spec).widths))


def _fake_backward(spec: str, x: Tensor, z: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def _fake_double_backward(
    spec: str, x: Tensor, z: Tensor, h: Tensor, need_x: bool = True, need_z: bool = True
) -> tuple[Tensor, Tensor]:
    dz = x.new_empty(x.shape[0] if need_z else 0, sum(_parse(spec).widths))
    return x.new_empty(x.shape[0] if need_x else 0, x.shape[1]), dz


# --- derivatives


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, spec: str, x: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x)
        if forward_ad._current_level >= 0:
            ctx.save_for_forward(x)
        ctx.spec = spec
        return _gate_op.below(spec, x)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, z: Tensor | None) -> tuple[Tensor | None, ...]:
        return None, None if z is None else _backward_op(ctx.spec, *ctx.saved_tensors, z)

    @staticmethod
    def jvp(ctx: Any, _: Any, along: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return _change(ctx.spec, x, along)


class _GateBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, spec: str, x: Tensor, z: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, z)
        ctx.spec = spec
        return _backward_op.below(spec, x, z)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, h: Tensor | None) -> tuple[Tensor | None, ...]:
        slots = wanted(ctx, first=1, count=2)
        if h is None or not slots:
            return None, None, None
        dx, dz = _double_backward_op(ctx.spec, *ctx.saved_tensors, h, 0 in slots, 1 in slots)
        return None, dx if 0 in slots else None, dz if 1 in slots else None


class _GateDoubleBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, spec: str, need_x: bool, need_z: bool, x: Tensor, z: Tensor, h: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, z, h)
        ctx.spec, ctx.need = spec, (need_x, need_z)
        return _double_backward_op.below(spec, x, z, h, need_x, need_z)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        slots = wanted(ctx, first=3, count=3)
        given = [n for n in range(2) if cotangents[n] is not None and ctx.need[n]]
        gradients: list[Tensor | None] = [None] * 3
        if given and slots:
            with torch.enable_grad():
                # Aliases: one input may depend on another, and only the partial derivatives are asked for.
                inputs = [a.view_as(a) for a in ctx.saved_tensors]
                for slot in slots:
                    inputs[slot].requires_grad_()
                outputs = _double_backward(ctx.spec, *inputs, *ctx.need)
            found = torch.autograd.grad(
                [outputs[n] for n in given],
                [inputs[slot] for slot in slots],
                [cotangents[n] for n in given],
                create_graph=torch.is_grad_enabled(),
                allow_unused=True,
            )
            for slot, gradient in zip(slots, found, strict=True):
                gradients[slot] = gradient
        return None, None, None, *gradients


def _records(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _refuse_tangents(*tensors: Tensor) -> None:
    if forward_ad._current_level >= 0 and any(forward_ad.unpack_dual(a).tangent is not None for a in tensors):
        raise BackendError("gate: forward-mode derivatives are those of its value; take reverse mode for the others.")


def _change(spec: str, x: Tensor, along: Tensor) -> Tensor:
    """The tangent of the gate."""
    zero = x.new_zeros(x.shape[0], sum(_parse(spec).widths))
    return _double_backward_op(spec, x, zero, along, False)[1]  # type: ignore[no-any-return]


def _autograd_forward(spec: str, x: Tensor) -> Tensor:
    if _records(x):
        return _Gate.apply(spec, x)  # type: ignore[no-any-return]
    if forward_ad._current_level >= 0 and (dual := forward_ad.unpack_dual(x)).tangent is not None:
        return forward_ad.make_dual(_gate_op(spec, dual.primal), _change(spec, dual.primal, dual.tangent))
    return _gate_op.below(spec, x)  # type: ignore[no-any-return]


def _autograd_backward(spec: str, x: Tensor, z: Tensor) -> Tensor:
    _refuse_tangents(x, z)
    if _records(x, z):
        return _GateBackward.apply(spec, x, z)  # type: ignore[no-any-return]
    return _backward_op.below(spec, x, z)  # type: ignore[no-any-return]


def _autograd_double_backward(
    spec: str, x: Tensor, z: Tensor, h: Tensor, need_x: bool = True, need_z: bool = True
) -> tuple[Tensor, Tensor]:
    _refuse_tangents(x, z, h)
    if _records(x, z, h):
        return _GateDoubleBackward.apply(spec, need_x, need_z, x, z, h)  # type: ignore[no-any-return]
    return _double_backward_op.below(spec, x, z, h, need_x, need_z)  # type: ignore[no-any-return]


_gate_op = Op("gate(str spec, Tensor x) -> Tensor", _forward, _fake_forward, _autograd_forward)
_backward_op = Op(
    "gate_backward(str spec, Tensor x, Tensor z) -> Tensor", _backward, _fake_backward, _autograd_backward
)
_double_backward_op = Op(
    "gate_double_backward(str spec, Tensor x, Tensor z, Tensor h, bool need_x=True, bool need_z=True) -> "
    "(Tensor dx, Tensor dz)",
    _double_backward,
    _fake_double_backward,
    _autograd_double_backward,
)


@in_float32
def gate(spec: str, x: Tensor) -> Tensor:
    """out (..., columns of all parts) of a gate's text (`gate_spec`) and x (..., columns); any order of derivative.

    Raises ShapeError where x does not fit.

    >>> spec = gate_spec(5, (Part(0, 1, "tanh"), Part(1, 1, "sigmoid", 2.0, gated=2, dim=3)))
    >>> gate(spec, torch.tensor([[0.0, 0.0, 1.0, 2.0, 3.0]]))
    tensor([[0., 1., 2., 3.]])
    """
    if x.ndim == 2:
        return _gate_op(spec, x)  # type: ignore[no-any-return]
    out = _gate_op(spec, x.reshape(-1, x.shape[-1]))
    return out.reshape(*x.shape[:-1], out.shape[1])  # type: ignore[no-any-return]
