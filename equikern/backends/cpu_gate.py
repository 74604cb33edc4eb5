"""Gates and their first two derivatives by the C++ kernels (float32 and float64, CPU)."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from equikern.backends._gate import ACTIVATIONS, parse_gate
from equikern.backends.cpu_harmonics import supports
from equikern.backends.extension import _C
from equikern.backends.threads import threads
from equikern.errors import BackendError

__all__ = ["gate", "gate_backward", "gate_double_backward", "supports"]


@lru_cache(maxsize=256)
def _kernel(spec: str) -> _C.Gate:
    layout = parse_gate(spec)
    parts, out = [], 0
    for p, width in zip(layout.parts, layout.widths, strict=True):
        parts.append((p.start, p.mul, ACTIVATIONS.index(p.act), p.scale, p.gated, p.dim, out))
        out += width
    return _C.Gate(layout.columns, layout.width, parts)


def _run(spec: str, *tensors: Tensor | None) -> None:
    """tensors: x, z, h, out, dx, dz, contiguous and of one dtype; None where there is none."""
    x = tensors[0]
    assert x is not None
    reason = supports(x.device.type, x.dtype)
    if reason:
        raise BackendError(f"backend 'cpu' cannot run a gate: {reason}; use backend 'reference'.")
    addresses = [0 if t is None else t.data_ptr() for t in tensors]
    _kernel(spec).run(x.dtype == torch.float64, x.shape[0], addresses, threads())


def gate(spec: str, x: Tensor) -> Tensor:
    """out (N, width) of x (N, columns)."""
    out = x.new_empty(x.shape[0], parse_gate(spec).width)
    _run(spec, x.contiguous(), None, None, out, None, None)
    return out


def gate_backward(spec: str, x: Tensor, z: Tensor) -> Tensor:
    """dG/dx of G = z . out."""
    dx = x.new_empty(x.shape)
    _run(spec, x.contiguous(), z.contiguous(), None, None, dx, None)
    return dx


def gate_double_backward(
    spec: str, x: Tensor, z: Tensor, h: Tensor, need_x: bool = True, need_z: bool = True
) -> tuple[Tensor, Tensor]:
    """The derivatives of h . dG/dx with respect to x and z; one not needed has no rows."""
    dx = x.new_empty(x.shape[0] if need_x else 0, x.shape[1])
    dz = x.new_empty(x.shape[0] if need_z else 0, parse_gate(spec).width)
    given = x.contiguous(), z.contiguous(), h.contiguous()
    _run(spec, *given, None, dx if need_x else None, dz if need_z else None)
    return dx, dz
