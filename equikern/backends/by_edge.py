"""Operands edge by edge: rows of an index gathered, results summed into them. The same on every device."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from equikern.errors import ShapeError
from equikern.program import EDGE, SHARED, Program


def places(base: Program, index: list[Tensor], like: Tensor) -> dict[str, Tensor]:
    """The row of each edge, for each indexed kind."""
    for tensor in index[: len(base.index_kinds)]:
        if tensor.dtype != torch.int64 or tensor.ndim != 1 or tensor.device != like.device:
            raise ShapeError(
                f"an index is {tuple(tensor.shape)} {tensor.dtype} on {tensor.device}; it must be one-dimensional "
                f"int64 on {like.device}. Make a Graph of the edges."
            )
    where = dict(zip(base.index_kinds, index, strict=False))
    if len({len(tensor) for tensor in where.values()}) > 1:
        sizes = {kind: len(tensor) for kind, tensor in where.items()}
        raise ShapeError(f"the index tensors differ in length: {sizes}; give each one entry an edge.")
    return where


def edges(base: Program, given: list[Tensor | None], where: dict[str, Tensor], open: dict[int, int]) -> int:
    """How many edges there are."""
    if where:
        return len(next(iter(where.values())))
    sizes = [len(a) for s, a in enumerate(given) if a is not None and base.rows[s] == EDGE]
    return (sizes + [n for s, n in open.items() if base.rows[s] == EDGE] + [1])[0]


def check(base: Program, given: list[Tensor | None], edges: int, like: Tensor) -> None:
    """The last line before native code, also for calls of the op itself: what the kernel reads must be there."""
    fixed = {EDGE: edges, SHARED: 1}
    for slot, a in enumerate(given):
        if a is None:
            continue
        rows = fixed.get(base.rows[slot], len(a))
        if a.shape != (rows, base.dims[slot]) or a.dtype != like.dtype or a.device != like.device:
            raise ShapeError(
                f"slot {slot} is {tuple(a.shape)} {a.dtype} on {a.device}; the program reads "
                f"{(rows, base.dims[slot])} {like.dtype} on {like.device}.\n  program   {base}"
            )


def gathered(base: Program, slot: int, a: Tensor, where: dict[str, Tensor], edges: int) -> Tensor:
    """An operand's row for every edge; shared weights stay one row."""
    kind = base.rows[slot]
    if kind == SHARED:
        return a.contiguous() if "w" in base.names[slot] else a.expand(edges, -1).contiguous()
    if kind == EDGE:
        return a.contiguous()
    return _in_range(base, kind, a, lambda: a.index_select(0, where[kind]))


def summed(base: Program, slot: int, local: Tensor | None, where: dict[str, Tensor], n: int, like: Tensor) -> Tensor:
    """A result by edge as rows of its slot."""
    kind = base.rows[slot]
    if local is None:
        return like.new_zeros(n, base.dims[slot])
    if kind == EDGE or (kind == SHARED and "w" in base.names[slot]):
        return local
    if kind == SHARED:
        return local.sum(0, keepdim=True)
    if not local.is_cpu:
        return sum_in_order(local, where[kind], n)
    return _in_range(base, kind, local, lambda: like.new_zeros(n, base.dims[slot]).index_add_(0, where[kind], local))


def sum_in_order(a: Tensor, index: Tensor, rows: int) -> Tensor:
    """(rows, columns): a summed into the rows of an index, in the order of a's: the same bits every time."""
    grouped, order = torch.sort(index, stable=True)
    ptr = torch.searchsorted(grouped, torch.arange(rows + 1, device=index.device))
    return torch.segment_reduce(a.index_select(0, order), "sum", offsets=ptr, axis=0, unsafe=True)


def _in_range(base: Program, kind: str, a: Tensor, read: Callable[[], Tensor]) -> Tensor:
    try:
        return read()
    except (IndexError, RuntimeError) as error:
        if not a.is_cpu:
            raise
        raise ShapeError(f"{kind} index out of range: {error}\n  program   {base}") from None
