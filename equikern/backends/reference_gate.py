"""Gates and their first two derivatives of torch's functions, on any device; differentiable (`ops/gate.py`)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from equikern.backends._gate import Layout, Part, parse_gate


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


def _activated(layout: Layout, x: Tensor, order: int) -> list[Tensor]:
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


def _assembled(layout: Layout, scalars: list[Tensor], gated: list[Tensor | None]) -> Tensor:
    """(N, columns of x) from what belongs to the activated and to the gated columns of each part."""
    pieces: list[Tensor] = []
    for _, is_gated, n in layout.order:
        if is_gated:
            pieces.append(gated[n].flatten(1))  # type: ignore[union-attr]
        else:
            pieces += [scalars[k] for k in layout.runs[n].parts]
    return torch.cat(pieces, 1)


def gate(spec: str, x: Tensor) -> Tensor:
    """out (N, width) of x (N, columns)."""
    layout = parse_gate(spec)
    a = _activated(layout, x, 0)
    pairs = zip(layout.parts, a, strict=True)
    return torch.cat([(_gated(x, p) * f.unsqueeze(2)).flatten(1) if p.dim else f for p, f in pairs], 1)


def gate_backward(spec: str, x: Tensor, z: Tensor) -> Tensor:
    """dG/dx of G = z . out."""
    layout = parse_gate(spec)
    a, slopes = _activated(layout, x, 0), _activated(layout, x, 1)
    scalars: list[Tensor] = []
    gated: list[Tensor | None] = []
    for p, f, slope, part in zip(layout.parts, a, slopes, z.split(layout.widths, 1), strict=True):
        shaped = part.unflatten(1, (p.mul, p.dim)) if p.dim else None
        scalars.append(slope * (part if shaped is None else (shaped * _gated(x, p)).sum(2)))
        gated.append(None if shaped is None else shaped * f.unsqueeze(2))
    return _assembled(layout, scalars, gated)


def gate_double_backward(
    spec: str, x: Tensor, z: Tensor, h: Tensor, need_x: bool = True, need_z: bool = True
) -> tuple[Tensor, Tensor]:
    """The derivatives of h . dG/dx with respect to x and z; one not needed has no rows."""
    layout = parse_gate(spec)
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
        torch.cat(dz, 1) if need_z else x.new_empty(0, layout.width),
    )
