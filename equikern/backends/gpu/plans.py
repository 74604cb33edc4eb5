"""Edges grouped by the rows of an operand (CSR): given with the call, or made for it."""

from __future__ import annotations

import torch
from torch import Tensor

from equikern.errors import ShapeError
from equikern.program import Program
from equikern.program.program import X, Z


def plan_of(base: Program, slot: int, index: list[Tensor], edges: int, rows: int) -> tuple[Tensor, Tensor]:
    """(ptr, order) for the rows of x or z: `order[ptr[n] : ptr[n+1]]` are the edges of row n.

    `index` holds a tensor for each of the program's kinds, then the plan of z's kind and that of x's kind where they
    are known. One that is not there is made, without a host synchronisation: an index out of range drops its edge.
    """
    kinds = base.index_kinds
    place = len(kinds) if slot == Z or base.rows[X] == base.rows[Z] else len(kinds) + 2
    known = index[place : place + 2] if base.rows[Z] in kinds else []
    if len(known) != 2:
        of = index[kinds.index(base.rows[slot])]
        grouped, order = torch.sort(of, stable=True)
        return torch.searchsorted(grouped, torch.arange(rows + 1, device=of.device)), order
    ptr, order = (tensor.contiguous() for tensor in known)
    if ptr.shape[0] != rows + 1 or order.shape[0] != edges:
        raise ShapeError(
            f"the plan is for {ptr.shape[0] - 1} rows and {order.shape[0]} edges, the call has {rows} and {edges}; "
            "build a new Graph when the edges change."
        )
    return ptr, order
