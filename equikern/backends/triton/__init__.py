"""The Triton backend: channelwise products on CUDA devices (CPU tensors where TRITON_INTERPRET=1).

A sweep over the rows of z gathers, multiplies and sums; forward, backward and double backward are one sweep each, a
form of higher order is a sum of base forms. Weights may come from rows of a table (`gpu/table.py`). float32 and
float64; half types are read and written as they are and computed in float32. `emit` writes the kernels, `launch` starts
them; `backends.gpu` cuts programs up and owns the buffers. Triton is imported on the first call.
"""

from __future__ import annotations

import torch
from torch import Tensor

from equikern.backends._channelwise import channelwise
from equikern.backends._derived import base_of
from equikern.backends.gpu.contract import contract as sweeps
from equikern.backends.triton.kernels import unavailable
from equikern.backends.triton.launch import sweep, table_sweep
from equikern.program import Program
from equikern.program.program import W

name = "triton"


def supports(program: Program, device: str, dtype: torch.dtype) -> str | None:
    """None where the kernels run the program, else the reason why not."""
    if (reason := unavailable(device, dtype)) is not None:
        return reason
    if program.family not in ("product", "table"):
        return f"it has no kernel for the family {program.family!r}"
    if not channelwise(program.text.split(" ~")[0]):
        return "a path mixes channels or reads several of y, or rows of y or w are indexed"
    if program.family == "table" and not program.dims[W]:
        return "no path reads the table"
    return None


def contract(
    program: Program, operands: list[Tensor], index: list[Tensor], rows: list[int], open: list[int]
) -> list[Tensor]:
    """dF/da for each open slot, `rows[n]` rows each; an absent operand (one dimension, no element) stands for zero."""
    if program.family != "table":
        return sweeps(sweep, program, operands, index, rows, open)
    # A tangent of a table, as derivatives of its gradient have, has no sweep of its own.
    tangents = operands[base_of(program).output + 1 :]
    second = len(tangents) > W and tangents[W].ndim != 2
    return sweeps(table_sweep, program, operands, index, rows, open, second)
