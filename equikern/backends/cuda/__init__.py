"""The CUDA backend: channelwise products on CUDA devices, in C++ that NVRTC compiles on first use.

A sweep over the rows of z gathers, multiplies and sums, as in the Triton backend, whose units and buffers it shares
(`backends.gpu`). `csrc/cuda` has the arithmetic and the walk over edges, `layout` and `emit` what a program adds to
them, `nvrtc` compiles, `driver` starts. float32 and float64. Not yet run on a device: the tests run the same sources on
the host, and compile them for devices.
"""

from __future__ import annotations

import torch
from torch import Tensor

from equikern.backends._channelwise import channelwise
from equikern.backends.cuda.launch import NARROW, REALS, sweep
from equikern.backends.cuda.nvrtc import library
from equikern.backends.gpu.contract import contract as sweeps
from equikern.program import Program

name = "cuda"


def unavailable(device: str, dtype: torch.dtype) -> str | None:
    """Why no kernel runs on tensors of a device and dtype; None if they do."""
    if dtype not in REALS:
        return f"operands are {dtype}; the kernels have float32 and float64"
    if device != "cuda":
        return f"operands are on {device}; the kernels run on cuda"
    if not torch.cuda.is_available():
        return "there is no CUDA device, or this PyTorch has no CUDA"
    if library() is None:
        return "NVRTC is not found, the compiler that PyTorch for CUDA brings"
    return None


def supports(program: Program, device: str, dtype: torch.dtype) -> str | None:
    """None where the kernels run the program, else the reason why not."""
    if (reason := unavailable(device, torch.float32 if dtype in NARROW else dtype)) is not None:
        return reason
    if program.family != "product":
        return f"it has no kernel for the family {program.family!r}"
    if not channelwise(program.text.split(" ~")[0]):
        return "a path mixes channels or reads several of y, or rows of y or w are indexed"
    return None


def contract(
    program: Program, operands: list[Tensor], index: list[Tensor], rows: list[int], open: list[int]
) -> list[Tensor]:
    """dF/da for each open slot, `rows[n]` rows each; an absent operand (one dimension, no element) stands for zero."""
    return sweeps(sweep, program, operands, index, rows, open)
