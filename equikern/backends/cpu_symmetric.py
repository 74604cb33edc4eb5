"""Symmetric contractions by the C++ kernels (float32 and float64, CPU)."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from equikern.backends.extension import _C, MISSING
from equikern.backends.threads import threads
from equikern.errors import BackendError
from equikern.program.symmetric import parse_symmetric


@lru_cache(maxsize=256)
def _kernel(text: str) -> _C.SymmetricContraction:
    program = parse_symmetric(text)
    values, products, made = program.circuit
    first_x, step_x = program.columns_x
    first_z, step_z = program.columns_z
    return _C.SymmetricContraction(
        (program.channels, program.reads, values),
        (first_x.tolist(), step_x.tolist()),
        (first_z.tolist(), step_z.tolist()),
        [tuple(p) for p in products],
        [(k, value) for (k, _), value in zip(program.terms, made, strict=True)],
    )


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None if the kernels take features on a device and of a dtype, else the reason in words."""
    if _C is None:
        return MISSING
    if device != "cpu":
        return f"the features are on {device}"
    if dtype not in (torch.float32, torch.float64):
        return f"the features are {dtype}; the kernels have float32 and float64"
    return None


def symmetric_contraction(
    text: str, species: list[Tensor], operands: list[Tensor], results: list[Tensor | None]
) -> None:
    """Write dF/da into the results that are there; operands and results are w, z, x_S ..., absent ones have 1 axis."""
    like = next(r for r in results if r is not None)
    reason = supports(like.device.type, like.dtype)
    if reason:
        raise BackendError(f"backend 'cpu' cannot run a symmetric contraction: {reason}; use backend 'reference'.")
    kernel = _kernel(text)
    run = kernel.run_float if like.dtype == torch.float32 else kernel.run_double
    given = [a.contiguous() if a.ndim > 1 else None for a in operands]
    if results[0] is not None:
        results[0].zero_()
        count = results[0].shape[0]
    else:
        count = operands[0].shape[0]
    addresses = [0 if a is None else a.data_ptr() for a in given], [0 if r is None else r.data_ptr() for r in results]
    kinds = species[0].contiguous()
    try:
        run(kinds.shape[0], count, kinds.data_ptr(), *addresses, threads())
    except ValueError as error:
        raise BackendError(f"symmetric contraction: {error}.\n  program   {text}") from None
