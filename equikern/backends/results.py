"""Where the CPU kernels' results go. Large ones take memory that earlier ones left (`csrc/cpu/kept.hpp`)."""

from __future__ import annotations

import torch
from torch import Tensor

from equikern.backends.extension import _C

LARGE = 4 << 20  # bytes; below, the C library keeps memory itself


def empty(like: Tensor, rows: int, columns: int) -> Tensor:
    """(rows, columns) of like's dtype on the CPU, not written."""
    count = rows * columns
    size = count * like.element_size()
    deterministic = torch.are_deterministic_algorithms_enabled() and torch.utils.deterministic.fill_uninitialized_memory
    if size < LARGE or deterministic:
        return like.new_empty(rows, columns)
    flat = torch.frombuffer(_C.KeptBlock(size), dtype=like.dtype, count=count)
    return flat.as_strided_((rows, columns), (columns, 1))  # in place: a result is nobody's view
