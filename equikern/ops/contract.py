"""`equikern::contract`: dF/da of a program for its open slots, closed under differentiation.

The derivative of the op is a call of the op: the backward of an opening is the opening of the same polynomial along the
cotangents. `operands` holds every slot in order; an absent one (not read, or zero) is an empty tensor of one dimension.
`index` holds the index tensor of each of the program's kinds, then, where they are known, the CSR plan (ptr, order) of
the output's kind and that of x's kind (`ops/plan.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from equikern import backends
from equikern.errors import BackendError, ShapeError
from equikern.ops.engine import (
    LIBRARY,
    Function,
    autocasts,
    batch,
    below_autograd,
    out_of_autocast,
    plain,
    wanted,
    wide,
)
from equikern.program import EDGE, SHARED, Program, parse

LIBRARY.define(
    "contract(str program, str backend, Tensor[] operands, Tensor[] index, SymInt[] rows, int[] open) -> Tensor[]"
)
_op = torch.ops.equikern.contract.default


def _run(
    program: str, backend: str, operands: list[Tensor], index: list[Tensor], rows: list[int], open: list[int]
) -> list[Tensor]:
    return backends.get(backend).contract(parse(program), operands, index, rows, open)  # type: ignore[no-any-return]


LIBRARY.impl("contract", out_of_autocast(_run), "CompositeExplicitAutograd")


@torch.library.register_fake("equikern::contract", lib=LIBRARY)
def _fake(
    program: str, backend: str, operands: list[Tensor], index: list[Tensor], rows: list[int], open: list[int]
) -> list[Tensor]:
    like = next(a for a in operands if a.ndim == 2)
    dims = parse(program).dims
    return [like.new_empty((n, dims[slot])) for n, slot in zip(rows, open, strict=True)]


def _call(
    program: Program, backend: str, operands: list[Tensor], index: Sequence[Tensor], rows: list[int], open: list[int]
) -> list[Tensor]:
    """The op, past the dispatcher and the program's text where nothing would see the difference."""
    if not plain(operands, index):
        if torch.jit.is_tracing():
            raise BackendError("torch.jit.trace cannot record equikern's ops; use torch.export or torch.compile.")
        return _op(program.text, backend, operands, list(index), rows, open)  # type: ignore[no-any-return]
    if _records(operands):
        call = _Call(program, backend, rows, open, len(operands), True)
        return _Contract.apply(call, *operands, *index)  # type: ignore[no-any-return]
    return backends.get(backend).contract(program, operands, list(index), rows, open)  # type: ignore[no-any-return]


def _records(operands: list[Tensor]) -> bool:
    if torch.is_grad_enabled():
        for a in operands:
            if a.requires_grad:
                return True
    return False


class _Call(NamedTuple):
    """What a call has beside its tensors, the first `split` of which are operands; direct: past the dispatcher."""

    program: Program
    backend: str
    rows: list[int]
    open: list[int]
    split: int
    direct: bool


class _Contract(Function):
    @staticmethod
    def forward(ctx: Any, call: _Call, *tensors: Tensor) -> Any:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        if forward_ad._current_level >= 0:
            ctx.save_for_forward(*tensors)
        ctx.call = call
        program, backend, rows, open, split, direct = call
        operands, index = list(tensors[:split]), list(tensors[split:])
        if direct:
            return tuple(backends.get(backend).contract(program, operands, index, rows, open))
        with below_autograd():
            return tuple(_op(program.text, backend, operands, index, rows, open))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        program, backend, _, opened, split, _ = ctx.call
        saved = ctx.saved_tensors
        operands, index = list(saved[:split]), saved[split:]
        slots = wanted(ctx, first=1, count=split)
        gradients: list[Tensor | None] = [None] * (1 + len(saved))
        if slots and any(g is not None for g in grads):
            program, operands, gone = along(program, operands, dict(zip(opened, grads, strict=True)))
            slots = [s for s in slots if s != gone and any(s in e for e in program.expansions)]
            rows = [(operands[s] if operands[s].ndim == 2 else saved[s]).shape[0] for s in slots]
            for s, g in zip(slots, _call(program, backend, operands, index, rows, slots), strict=True):
                gradients[1 + s] = g
        return tuple(gradients)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
        # Of dual operands that record too: saved as they are, they carry their tangents into the backward.
        program, backend, rows, open, split, _ = ctx.call
        operands, index = list(ctx.saved_tensors[:split]), list(ctx.saved_tensors[split:])
        given = {slot: t for slot, t in enumerate(tangents[1 : 1 + split]) if t is not None}
        return tuple(_changes(program, backend, operands, given, index, rows, open))


def along(
    program: Program, operands: list[Tensor], tangents: dict[int, Tensor | None]
) -> tuple[Program, list[Tensor], int | None]:
    """The program's derivative along tangents of some slots, its operands, and the slot that a tangent has replaced.

    Absent tangents are zero. A single tangent of a slot that every term reads once takes that slot's place: the form
    does not depend on that slot any more. Else the tangents are appended, in a product always for all its inputs
    together, so that all double backwards share one program.
    """
    live = [slot for slot, tangent in tangents.items() if tangent is not None]
    if len(live) == 1 and live[0] in program.linear_slots:
        replaced = list(operands)
        replaced[live[0]] = tangents[live[0]]  # type: ignore[assignment]
        return program, replaced, live[0]
    slots = sorted(tangents)
    if not program.derived and set(slots) <= set(range(program.output)):
        slots = list(range(program.output))
    absent = operands[0].new_empty(0)
    appended = [tangents.get(slot) for slot in slots]
    return _derived(program.text, tuple(slots)), operands + [absent if t is None else t for t in appended], None


@cache
def _derived(text: str, slots: tuple[int, ...]) -> Program:
    """A program's derivative, made once: making one takes longer than many a kernel."""
    return parse(text).along(slots)


def _autograd(
    program: str, backend: str, operands: list[Tensor], index: list[Tensor], rows: list[int], open: list[int]
) -> Any:
    if _records(operands):
        call = _Call(parse(program), backend, rows, open, len(operands), False)
        return list(_Contract.apply(call, *operands, *index))
    if forward_ad._current_level >= 0:
        duals = [forward_ad.unpack_dual(a) for a in operands]
        tangents = {slot: dual.tangent for slot, dual in enumerate(duals) if dual.tangent is not None}
        if tangents:
            primals = [d.primal for d in duals]
            values = _op(program, backend, primals, index, rows, open)
            changes = _changes(parse(program), backend, primals, tangents, index, rows, open)
            return [forward_ad.make_dual(value, change) for value, change in zip(values, changes, strict=True)]
    with below_autograd():
        return _op(program, backend, operands, index, rows, open)


def _changes(
    program: Program,
    backend: str,
    operands: list[Tensor],
    tangents: dict[int, Tensor],
    index: list[Tensor],
    rows: list[int],
    open: list[int],
) -> list[Tensor]:
    """The results' tangents."""
    derivative, extended, gone = along(program, operands, dict(tangents))
    kept = [(n, slot) for n, slot in zip(rows, open, strict=True) if slot != gone]
    sizes, slots = [n for n, _ in kept], [slot for _, slot in kept]
    found = iter(_op(derivative.text, backend, extended, index, sizes, slots) if kept else ())
    # dF/da of a slot that every term reads once does not depend on it.
    zeros = extended[0].new_zeros
    return [zeros(n, program.dims[slot]) if slot == gone else next(found) for n, slot in zip(rows, open, strict=True)]


LIBRARY.impl("contract", _autograd, "Autograd")
batch(_op)


# --- what users call


def evaluate(
    program: Program, operands: Sequence[Tensor | None], index: Sequence[Tensor] = (), rows: int | None = None
) -> Tensor:
    """The output z of a program: (rows, dim of z).

    `operands` are the inputs in order, each (rows of its kind, columns); a shared one may lack its row axis; None
    stands for absent weights. `index` holds int64 tensors of the program's index kinds, and the plan of z where they
    were checked already (`ops/plan.py`). Under autocast, half types are widened and z is float32.
    Raises ShapeError for tensors that do not fit.
    """
    inputs = [_input(program, slot, a) for slot, a in enumerate(operands)]
    if any(a is not None and autocasts(a) for a in inputs):
        inputs = wide(inputs)
    edges = check_shapes(program, inputs, index)
    x = inputs[0]
    count = edges if rows is None else rows
    if program.paths == ():
        return x.new_zeros(count, program.dims[program.output])
    backend = backends.select(program.text, x.device.type, x.dtype)
    absent = x.new_empty(0)
    given = [absent if a is None else a for a in inputs]
    return _call(program, backend, [*given, absent], index, [count], [program.output])[0]


def product(program: Program, x: Tensor, y: Tensor, weight: Tensor | None) -> Tensor:
    """z of a product program without index kinds: x (E, dim), y (E, dim), weight (E, n), or (n,) where it is shared."""
    return evaluate(program, (x, y, weight))


def linear(program: Program, x: Tensor, weight: Tensor | None) -> Tensor:
    """z of a linear program: x (E, dim), weight (n,) where it is shared, else (E, n)."""
    return evaluate(program, (x, weight))


def _input(program: Program, slot: int, a: Tensor | None) -> Any:
    if a is None or (program.dims[slot] == 0 and program.names[slot] == "w"):
        return None
    return a.unsqueeze(0) if program.rows[slot] == SHARED and a.ndim == 1 else a


def check_shapes(program: Program, inputs: Sequence[Tensor | None], index: Sequence[Tensor]) -> int:
    """Raise ShapeError unless the inputs fit the program and each other; returns the number of edges."""
    edges = index[0].shape[0] if program.index_kinds else None
    x = inputs[0]
    for name, kind, dim, a in zip(program.names, program.rows, program.dims, inputs, strict=False):
        if a is None:
            if dim:
                raise _misfit(program, inputs, f"operand {name!r} is missing; the program reads {dim} columns of it")
            continue
        if a.ndim != 2 or a.shape[1] != dim:
            shape = f"has {a.shape[1]} columns" if a.ndim == 2 else f"has {a.ndim} dimensions"
            raise _misfit(program, inputs, f"operand {name!r} {shape}; the program reads (rows, {dim})")
        if not a.is_floating_point():
            raise _misfit(program, inputs, f"operand {name!r} is {a.dtype}; it must have a floating dtype")
        if x is not None and (a.dtype != x.dtype or a.device != x.device):
            what = f"operand {name!r} is {a.dtype} on {a.device}, operand 'x' {x.dtype} on {x.device}"
            raise _misfit(program, inputs, what + "; use one dtype and device")
        if kind in (SHARED, EDGE):
            if kind == EDGE and edges is None:
                edges = a.shape[0]
            expected = 1 if kind == SHARED else edges
            if a.shape[0] != expected:
                raise _misfit(
                    program, inputs, f"operand {name!r} has {a.shape[0]} rows of kind {kind!r}; expected {expected}"
                )
    if x is None or edges is None:
        raise _misfit(program, inputs, "no operand says how many edges there are")
    return edges


def _misfit(program: Program, inputs: Sequence[Tensor | None], what: str) -> ShapeError:
    got = "  ".join(
        f"{n} {'absent' if a is None else tuple(a.shape)}" for n, a in zip(program.names, inputs, strict=False)
    )
    reads = "  ".join(str(slot) for slot in program.operands)
    return ShapeError(f"{what}.\n  program   {program}\n  reads     {reads}\n  got       {got}")
