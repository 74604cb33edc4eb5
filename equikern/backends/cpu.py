"""The CPU backend: the channelwise family in C++ (`csrc/cpu/contract.inl`), chosen by structure."""

from __future__ import annotations

import torch
from torch import Tensor

from equikern.errors import ShapeError
from equikern.program import Program

name = "cpu"


def supports(program: Program, device: str, dtype: torch.dtype) -> str | None:
    return "not yet"


def contract(program: Program, operands: list[Tensor], index: list[Tensor], rows: list[int], open: list[int]) -> list[Tensor]:
    raise NotImplementedError


def plan(sender: Tensor, receiver: Tensor, senders: int, receivers: int) -> tuple[Tensor, Tensor]:
    """CSR of the edges by receiver (see ops/plan.py); None of the indices may be out of range."""
    for kind, index, n in (("sender", sender, senders), ("receiver", receiver, receivers)):
        if index.numel() and not bool(((index >= 0) & (index < n)).all()):
            raise ShapeError(f"{kind} index out of range: the graph has {n} {kind}s, the indices reach {int(index.max())}.")
    ptr = receiver.new_zeros(receivers + 1)
    ptr[1:] = torch.bincount(receiver, minlength=receivers).cumsum(0)
    return ptr, torch.argsort(receiver, stable=True)
