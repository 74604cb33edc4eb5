"""Spherical harmonics and their first two derivatives by the C++ kernels (float32 and float64, CPU)."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from equikern.backends._harmonics import columns, pair_factors, parse_spec
from equikern.backends.extension import _C, MISSING
from equikern.backends.threads import threads
from equikern.errors import BackendError

VALUE, BACKWARD, DOUBLE_BACKWARD = range(3)


@lru_cache(maxsize=256)
def _kernel(text: str) -> _C.Harmonics:
    spec = parse_spec(text)
    return _C.Harmonics(spec.lmax, spec.normalize, columns(spec), pair_factors(spec))


def supports(device: str, dtype: torch.dtype, lmax: int = 0) -> str | None:
    """None if the kernels take vectors on a device and of a dtype, else the reason in words."""
    if _C is None:
        return MISSING
    if device != "cpu":
        return f"the vectors are on {device}"
    if dtype not in (torch.float32, torch.float64):
        return f"the vectors are {dtype}; the kernels have float32 and float64"
    return None


def _run(order: int, text: str, tensors: list[Tensor | None]) -> None:
    """`tensors`: vec, z, h, out, dvec, dz, contiguous and of one dtype; None where the order has no use for one."""
    vec = tensors[0]
    assert vec is not None
    reason = supports(vec.device.type, vec.dtype)
    if reason:
        raise BackendError(f"backend 'cpu' cannot run harmonics: {reason}; use backend 'reference'.")
    kernel = _kernel(text)
    run = kernel.run_float if vec.dtype == torch.float32 else kernel.run_double
    run(order, vec.shape[0], threads(), [0 if tensor is None else tensor.data_ptr() for tensor in tensors])


def harmonics(text: str, vec: Tensor) -> Tensor:
    """Y(vec), (E, dim), of vec (E, 3)."""
    out = vec.new_empty(vec.shape[0], parse_spec(text).dim)
    _run(VALUE, text, [vec.contiguous(), None, None, out, None, None])
    return out


def harmonics_backward(text: str, vec: Tensor, z: Tensor) -> Tensor:
    """dG/dvec, (E, 3), of G = sum z Y(vec), z (E, dim)."""
    dvec = vec.new_empty(vec.shape)
    _run(BACKWARD, text, [vec.contiguous(), z.contiguous(), None, None, dvec, None])
    return dvec


def harmonics_double_backward(
    text: str, vec: Tensor, z: Tensor, h: Tensor, need_vec: bool = True, need_z: bool = True
) -> tuple[Tensor, Tensor]:
    """Derivatives of sum h dG/dvec with respect to vec (E, 3) and z (E, dim); one not needed has no rows."""
    dvec = vec.new_empty(vec.shape[0] if need_vec else 0, 3)
    dz = vec.new_empty(vec.shape[0] if need_z else 0, parse_spec(text).dim)
    outputs = [dvec if need_vec else None, dz if need_z else None]
    _run(DOUBLE_BACKWARD, text, [vec.contiguous(), z.contiguous(), h.contiguous(), None, *outputs])
    return dvec, dz
