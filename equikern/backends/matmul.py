"""The matmul backend: linear maps and products in every connection mode by torch's matrix products, on any device.

On CUDA tensors it runs what has no kernel of our own. Nothing in it waits for the device. Linear maps, shared or by
species, are a product of two matrices for each path (`linear`, `species`); what mixes channels is coupled by a
channelwise sweep of whichever backend has one, and multiplied by its weights (`staged`); paths of several kinds go each
their own way, to a kernel where there is one (`parts`); all else is coupled edge by edge (`coupled`). Half types are
computed and summed in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from equikern.backends import coupled, cpu, cuda, linear, parts, species, staged, triton
from equikern.backends._derived import base_of, expanded
from equikern.program import Program

name = "matmul"


def supports(program: Program, device: str, dtype: torch.dtype) -> str | None:
    """None where it runs the program, else the reason why not."""
    if not dtype.is_floating_point:
        return f"operands are {dtype}; it needs a floating dtype"
    if program.family == "table":
        return "it reads no weights from the rows of a table"
    return None


def contract(
    program: Program, operands: list[Tensor], index: list[Tensor], rows: list[int], open: list[int]
) -> list[Tensor]:
    """dF/da for each open slot, `rows[n]` rows each; an absent operand (one dimension, no element) stands for zero."""
    dtype, opened = operands[0].dtype, dict(zip(open, rows, strict=True))
    half = dtype.itemsize < 4
    wide = [a.float() for a in operands] if half else operands
    if program.derived:
        found = expanded(program, wide, opened, lambda base, read, o, fixed: _sweep(base, read, index, o, fixed))
    else:
        found = _sweep(base_of(program), wide, index, opened, True)
    return [a.to(dtype) for a in found] if half else found


def _sweep(
    base: Program, operands: list[Tensor], index: list[Tensor], open: dict[int, int], fixed: bool
) -> list[Tensor]:
    if base.family == "linear" and linear.why_not(base) is None:
        return linear.sweep(base, operands, index, open)
    if species.takes(base.text):
        return species.sweep(base, operands, index, open, linear.sweep, looks=False)
    if staged.takes(base.text):
        return staged.sweep(base, operands, index, open, _kernel)
    if base.family == "product" and parts.parts(base.text):

        def run(part: parts.Part, read: list[Tensor], opened: dict[int, int]) -> list[Tensor]:
            if part.swept:
                return _kernel(part.program, read, index, opened)
            return _sweep(part.program, read, index, opened, fixed)

        return parts.sweep(base, operands, open, fixed=fixed, run=run)
    return coupled.sweep(base, operands, index, open, fixed=fixed)


def _kernel(base: Program, operands: list[Tensor], index: list[Tensor], open: dict[int, int]) -> list[Tensor]:
    """The sweep of a backend that has a kernel for it here; else by the matrix products of `coupled`."""
    like = next(a for a in operands if a.ndim == 2)
    for backend in (cpu, cuda, triton):
        if backend.supports(base, like.device.type, like.dtype) is None:
            return backend.contract(base, operands, index, list(open.values()), list(open))
    return coupled.sweep(base, operands, index, open)
