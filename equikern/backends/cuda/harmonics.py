"""Spherical harmonics and their first two derivatives in CUDA: emits the degrees and factors for `harmonics.cuh`."""

from __future__ import annotations

from contextlib import nullcontext
from functools import cache

import torch
from torch import Tensor

from equikern.backends import cuda
from equikern.backends._harmonics import pair_factors, parse_spec
from equikern.backends.cuda import driver
from equikern.backends.cuda.launch import REALS
from equikern.errors import BackendError

THREADS = 128
LMAX = 8
VALUE, BACKWARD, DOUBLE_BACKWARD = range(3)


def supports(device: str, dtype: torch.dtype, lmax: int = 0) -> str | None:
    """None if the kernels take vectors on a device and of a dtype, up to a degree, else the reason in words."""
    if lmax > LMAX:
        return f"the degrees go up to {lmax}; the kernels have {LMAX}"
    return cuda.unavailable(device, dtype)


@cache
def source(text: str, order: int, real: str) -> str:
    """The kernel of a specification: values, gradient of sum z Y, or both derivatives of that gradient along h."""
    spec = parse_spec(text)
    tiny = torch.finfo(torch.float32 if real == "float" else torch.float64).tiny
    pairs = ", ".join("{" + ", ".join(f"T({value!r})" for value in pair) + "}" for pair in pair_factors(spec))
    return f"""// {text}
#include "harmonics.cuh"
using namespace eqk;
using T = {real};
EQK_TABLE Pair<T> PAIRS[] = {{{pairs}}};
struct Form {{
  using Real = T;
  using Columns = Degrees<{", ".join(map(str, spec.degrees))}>;
  static constexpr int LMAX = {spec.lmax}, DIM = {spec.dim}, THREADS = {THREADS};
  static constexpr bool NORMALIZE = {str(spec.normalize).lower()};
  static constexpr T TINY = T({tiny!r});
  static EQK_DEVICE Pair<T> pair_of(int n) {{ return PAIRS[n]; }}
}};
EQK_KERNEL(harmonics_kernel, {THREADS}, Vectors<T>) {{ harmonics<Form, {order}>(argument); }}
"""


def _run(order: int, text: str, tensors: dict[str, Tensor]) -> None:
    vec = tensors["vec"]
    reason = supports(vec.device.type, vec.dtype, parse_spec(text).lmax)
    if reason:
        raise BackendError(f"backend 'cuda' cannot run harmonics: {reason}; use backend 'reference'.")
    edges = vec.shape[0]
    if edges == 0:
        return
    # The arguments are those of `Vectors` in harmonics.cuh.
    given = [tensors[n].data_ptr() if n in tensors else 0 for n in ("vec", "z", "h", "y", "dvec", "dz")]
    made = source(text, order, REALS[vec.dtype])
    with torch.cuda.device(vec.device) if vec.is_cuda else nullcontext():
        driver.start(made, "harmonics_kernel", (-(-edges // THREADS), 1), THREADS, [*given, edges])


def harmonics(text: str, vec: Tensor) -> Tensor:
    """Y(vec), (E, dim), of vec (E, 3)."""
    out = vec.new_empty(vec.shape[0], parse_spec(text).dim)
    _run(VALUE, text, {"vec": vec.contiguous(), "y": out})
    return out


def harmonics_backward(text: str, vec: Tensor, z: Tensor) -> Tensor:
    """dG/dvec, (E, 3), of G = sum z Y(vec), z (E, dim)."""
    dvec = vec.new_empty(vec.shape)
    _run(BACKWARD, text, {"vec": vec.contiguous(), "z": z.contiguous(), "dvec": dvec})
    return dvec


def harmonics_double_backward(
    text: str, vec: Tensor, z: Tensor, h: Tensor, need_vec: bool = True, need_z: bool = True
) -> tuple[Tensor, Tensor]:
    """Derivatives of sum h dG/dvec with respect to vec (E, 3) and z (E, dim); one not needed has no rows."""
    dvec, dz = vec.new_empty(vec.shape), vec.new_empty(vec.shape[0], parse_spec(text).dim)
    given = {"vec": vec.contiguous(), "z": z.contiguous(), "h": h.contiguous()}
    _run(DOUBLE_BACKWARD, text, given | {"dvec": dvec, "dz": dz})
    return dvec if need_vec else dvec[:0], dz if need_z else dz[:0]
