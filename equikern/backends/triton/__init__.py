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
from equikern.backends._derived import base_of, expanded
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
    return None


def contract(
    program: Program, operands: list[Tensor], index: list[Tensor], rows: list[int], open: list[int]
) -> list[Tensor]:
    """dF/da for each open slot, `rows[n]` rows each; an absent operand (one dimension, no element) stands for zero."""
    opened = dict(zip(open, rows, strict=True))
    base = base_of(program)
    run = table_sweep if base.family == "table" else sweep
    if not program.derived:
        return run(base, operands, index, opened)
    along_all = program.derived == (tuple(range(base.output)),) and all(slot <= base.output for slot in open)
    # A tangent of a table, as derivatives of its gradient have, has no sweep of its own.
    if along_all and (base.family == "product" or operands[base.output + 1 + W].ndim != 2):
        return run(base, operands, index, opened, second=True)
    return expanded(program, operands, opened, lambda b, read, o, fixed: run(b, read, index, o, fixed=fixed))
