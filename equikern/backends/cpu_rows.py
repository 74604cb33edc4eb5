"""Which rows a call of a kernel reads and writes: how many, and that they are there, before native code runs."""

from __future__ import annotations

import torch
from torch import Tensor

from equikern.backends.extension import _C, MISSING
from equikern.errors import BackendError, ShapeError
from equikern.program import EDGE, SHARED, Program
from equikern.program.program import W, X, Y


def counts(
    base: Program, given: list[Tensor | None], index: list[Tensor], open: dict[int, int]
) -> tuple[int, int, int, int]:
    """(edges, rows of x, of z, of w)."""
    first = base.output + 1  # of the tangents

    def rows(*slots: int) -> int | None:
        for slot in slots:
            if slot < len(given) and (a := given[slot]) is not None:
                return a.shape[0]
            if slot in open:
                return open[slot]
        return None

    if base.index_kinds:
        edges = index[0].shape[0]
    else:
        edges = next(n for s in (X, Y, base.output, W) if base.rows[s] == EDGE and (n := rows(s)) is not None)
    x_rows, z_rows, w_rows = rows(X, first + X), rows(base.output), rows(W, first + W)
    return edges, edges if x_rows is None else x_rows, edges if z_rows is None else z_rows, w_rows or 0


def check(base: Program, given: list[Tensor | None], counts: tuple[int, int, int, int], like: Tensor) -> None:
    """The last line before native code, also for calls of the op itself: what the kernel reads must be there."""
    edges, x_rows, z_rows, w_rows = counts
    expected = [
        edges if base.rows[X] == EDGE else x_rows,
        edges,
        w_rows if base.family == "table" else 1 if base.rows[W] == SHARED else edges,
        *([edges] if base.family == "table" else []),
        edges if base.rows[base.output] == EDGE else z_rows,
    ]
    for slot, a in enumerate(given):
        kind = slot % len(base.operands)
        if a is None:
            continue
        if a.shape != (expected[kind], base.dims[kind]) or a.dtype != like.dtype or not a.is_cpu:
            raise ShapeError(
                f"slot {slot} is {tuple(a.shape)} {a.dtype} on {a.device}; the program reads "
                f"{(expected[kind], base.dims[kind])} {like.dtype} on cpu.\n  program   {base}"
            )


def graph(base: Program, index: list[Tensor], edges: int, z_rows: int) -> list[Tensor | None]:
    """[x's rows, ptr and order of the edges by z's rows, knots of w's rows]; None where rows are the edges themselves.

    Their values the kernel checks, against the rows there are.
    """
    for tensor in index:
        if tensor.dtype is not torch.int64 or tensor.ndim != 1 or not tensor.is_cpu:
            raise ShapeError(
                f"an index is {tuple(tensor.shape)} {tensor.dtype} on {tensor.device}; it must be one-dimensional "
                "int64 on the CPU. Make a Graph of the edges."
            )
    kinds = {kind: tensor.contiguous() for kind, tensor in zip(base.index_kinds, index, strict=False)}
    if [tensor.shape[0] for tensor in kinds.values()] != [edges] * len(kinds):
        sizes = {kind: tensor.shape[0] for kind, tensor in kinds.items()}
        raise ShapeError(f"the index tensors differ in length: {sizes}; give each one entry an edge.")
    x_index, z_index, knot = kinds.get(base.rows[X]), kinds.get(base.rows[base.output]), kinds.get(base.rows[W])
    if z_index is None:
        return [x_index, None, None, knot]
    if len(index) == len(kinds):
        return [x_index, *plan(z_index, z_index, z_rows, z_rows), knot]
    ptr, order = (tensor.contiguous() for tensor in index[len(kinds) : len(kinds) + 2])
    if ptr.shape[0] != z_rows + 1 or order.shape[0] != edges:
        raise ShapeError(
            f"the plan is for {ptr.shape[0] - 1} receivers and {order.shape[0]} edges, the call has {z_rows} and "
            f"{edges}; build a new Graph when the edges change."
        )
    return [x_index, ptr, order, knot]


def plan(sender: Tensor, receiver: Tensor, senders: int, receivers: int) -> tuple[Tensor, Tensor]:
    """CSR of the edges by receiver, (ptr, order); raises ShapeError for an index out of range. See ops/plan.py."""
    if _C is None:
        raise BackendError(MISSING)
    sender, receiver = sender.contiguous(), receiver.contiguous()
    ptr, order = receiver.new_empty(receivers + 1), torch.empty_like(receiver)
    try:
        _C.plan(
            len(receiver), sender.data_ptr(), receiver.data_ptr(), senders, receivers, ptr.data_ptr(), order.data_ptr()
        )
    except IndexError as error:
        raise ShapeError(str(error)) from None
    return ptr, order
