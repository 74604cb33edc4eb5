"""The CPU backend: every product program in C++, in one of two ways.

A product is channelwise when each path keeps x's channel: mode `uvu`, or one that is the same when y's multiplicity is
1 (`uvuv`; the others for single channels). With x and z by any index or by edge, y and w by edge (w shared too, or by
rows of a table), one sweep gathers, multiplies and sums (`csrc/cpu/contract.inl`): forward, backward and double
backward are fused; a form of higher order is a sum of base forms. All others run row by row (`cpu_modes`), each
derivative in one call.
"""

from __future__ import annotations

import torch
from torch import Tensor

from equikern.backends import cpu_linear, cpu_modes, cpu_nodes, linear, species
from equikern.backends._channelwise import channelwise
from equikern.backends._derived import base_of, expanded
from equikern.backends.cpu_sweep import channelwise_sweep
from equikern.backends.extension import _C, MISSING
from equikern.errors import BackendError
from equikern.program import Program

name = "cpu"
_DTYPES = (torch.float32, torch.float64)


def available() -> bool:
    """Whether the extension is there."""
    return _C is not None


def target() -> str:
    """The instruction set in use: base, avx2 or avx512."""
    return _C.cpu_target() if _C is not None else "none"  # type: ignore[no-any-return]


def fma_peak(dtype: torch.dtype) -> float:
    """Floating-point operations a second that multiply-adds on registers reach on one thread, measured now."""
    if _C is None:
        raise BackendError(MISSING)
    return _C.fma_peak(dtype == torch.float64)  # type: ignore[no-any-return]


def memory_bandwidth(threads: int = 1) -> float:
    """Bytes a second that threads stream from and to memory, measured now by a triad (3 arrays of 64 MB)."""
    if _C is None:
        raise BackendError(MISSING)
    return _C.memory_bandwidth(threads)  # type: ignore[no-any-return]


def supports(program: Program, device: str, dtype: torch.dtype) -> str | None:
    """None where the kernels run the program, else the reason why not."""
    if _C is None:
        return MISSING
    if device != "cpu":
        return f"operands are on {device}"
    if dtype not in _DTYPES:
        return f"operands are {dtype}; the kernels have float32 and float64"
    if program.family == "linear":
        return linear.why_not(program)
    if program.family not in ("product", "table"):
        return f"it has no kernel for the family {program.family!r}"
    if program.family == "table" and not channelwise(program.text.split(" ~")[0]):
        return "a table's weights are read by paths that keep x's channel, x and z by an index of their own or by edge"
    return None


def contract(
    program: Program, operands: list[Tensor], index: list[Tensor], rows: list[int], open: list[int]
) -> list[Tensor]:
    """dF/da for each open slot, `rows[n]` rows each; an absent operand (one dimension, no element) stands for zero."""
    opened = dict(zip(open, rows, strict=True))
    base = base_of(program) if program.derived else program
    fused = base.family != "linear" and channelwise(base.text)
    if base.family == "product" and not (fused or cpu_nodes.takes(base.text) or species.takes(base.text)):
        return cpu_modes.sweep(program, operands, index, opened)
    if not program.derived:
        return _swept(program, operands, index, opened)
    second = (tuple(range(base.output)),)
    if fused and program.derived == second and all(slot <= base.output for slot in open):
        return channelwise_sweep(base, operands, index, opened, second=True)

    def sweep(base: Program, read: list[Tensor], opened: dict[int, int], fixed: bool) -> list[Tensor]:
        return _swept(base, read, index, opened, fixed=float(fixed))

    return expanded(program, operands, opened, sweep)


def _swept(
    base: Program, operands: list[Tensor], index: list[Tensor], open: dict[int, int], fixed: float = 1.0
) -> list[Tensor]:
    if base.family == "linear":
        return cpu_linear.sweep(base, operands, index, open)
    if channelwise(base.text):
        return channelwise_sweep(base, operands, index, open, fixed=fixed)
    if cpu_nodes.takes(base.text):
        return cpu_nodes.sweep(base, operands, index, open)
    return species.sweep(base, operands, index, open, cpu_linear.sweep, looks=True)
