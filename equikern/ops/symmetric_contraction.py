"""`equikern::symmetric_contraction`: equivariant polynomials of node features, closed under differentiation.

F(x, w, z) of `program/symmetric.py`; the op gives dF/da for its open slots. `species` are those of the nodes (N,), and
where the backend plans with them its plan: it is made once, for all orders. Slots are w (species, terms, C), z (N, dim
of z), and the arrays x_S (N, dim of x), S = 0 ... 2^order - 1; an absent one (not read, or zero) is an empty tensor of
one dimension. The derivative of an opening is an opening of the same F, of F along tangents of x, or their sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from equikern import backends
from equikern.errors import ShapeError
from equikern.ops.engine import Function, Op, in_float32, wanted
from equikern.program.symmetric import Symmetric, parse_symmetric

W, Z, X = range(3)


def _shape(program: Symmetric, slot: int, nodes: int, num_species: int) -> tuple[int, ...]:
    if slot == W:
        return num_species, len(program.terms), program.channels
    return nodes, program.irreps_z.dim if slot == Z else program.irreps_x.dim


def _run(
    program: str, backend: str, species: list[Tensor], num_species: int, operands: list[Tensor], open: list[int]
) -> list[Tensor]:
    parsed = parse_symmetric(program)
    like = _check(parsed, species, num_species, operands)
    results: list[Tensor | None] = [None] * len(operands)
    for slot in open:
        results[slot] = like.new_empty(_shape(parsed, slot, species[0].shape[0], num_species))
    if open:
        backends.symmetric[backend].symmetric_contraction(program, species, operands, results)
    return [results[slot] for slot in open]  # type: ignore[misc]


def _check(program: Symmetric, species: list[Tensor], num_species: int, operands: list[Tensor]) -> Tensor:
    """Raise ShapeError for operands that do not fit; returns one that is there."""
    like = next((a for a in operands if a.ndim > 1), None)
    if like is None or len(operands) != X + program.reads:
        raise ShapeError(f"symmetric_contraction: {len(operands)} operands do not fit.\n  program   {program}")
    for index in species:
        if (
            index.ndim != 1
            or len(index) != len(species[0])
            or index.dtype != torch.int64
            or index.device != like.device
        ):
            raise ShapeError(
                f"symmetric_contraction: species are {tuple(index.shape)} {index.dtype} on {index.device}; give int64 "
                f"(N,) on {like.device}."
            )
    for slot, a in enumerate(operands):
        if a.ndim <= 1 and a.numel() == 0:
            continue
        expected, name = _shape(program, slot, species[0].shape[0], num_species), "wzx"[min(slot, X)]
        if tuple(a.shape) != expected:
            raise ShapeError(
                f"symmetric_contraction: operand {name!r} has shape {tuple(a.shape)}; the program reads {expected}.\n"
                f"  program   {program}"
            )
        if a.dtype != like.dtype or a.device != like.device:
            raise ShapeError(
                f"symmetric_contraction: operand {name!r} is {a.dtype} on {a.device}, another one {like.dtype} on "
                f"{like.device}; use one dtype and device."
            )
    return like


def _fake(
    program: str, backend: str, species: list[Tensor], num_species: int, operands: list[Tensor], open: list[int]
) -> list[Tensor]:
    like = next(a for a in operands if a.ndim > 1)
    return [like.new_empty(_shape(parse_symmetric(program), s, species[0].shape[0], num_species)) for s in open]


def _change(
    program: Symmetric,
    backend: str,
    species: list[Tensor],
    num_species: int,
    operands: list[Tensor],
    tangents: dict[int, Tensor],
    slots: list[int],
) -> dict[int, Tensor]:
    """Derivatives, for the slots, of the sum over tangents of <tangent, dF/da>; a slot without one is left out."""
    found: dict[int, Tensor] = {}

    def add(of: Symmetric, given: list[Tensor], wanted_slots: list[int]) -> None:
        if wanted_slots:
            made = _op(of.text, backend, species, num_species, given, wanted_slots)
            for slot, change in zip(wanted_slots, made, strict=True):
                found[slot] = found[slot] + change if slot in found else change

    for slot in (W, Z):  # F is linear in them: the tangent takes the slot's place
        if slot in tangents:
            add(
                program,
                [tangents[n] if n == slot else a for n, a in enumerate(operands)],
                [s for s in slots if s != slot],
            )
    if any(slot >= X for slot in tangents):
        absent = operands[0].new_empty(0)
        added = [tangents.get(slot, absent) for slot in range(X, X + program.reads)]
        add(program.along(), [*operands, *added], slots)
    return found


def _split(program: str, tensors: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Operands, and the species with their plan."""
    count = X + parse_symmetric(program).reads
    return list(tensors[:count]), list(tensors[count:])


class _SymmetricContraction(Function):
    @staticmethod
    def forward(ctx: Any, program: str, backend: str, num_species: int, open: list[int], *tensors: Tensor) -> Any:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        if forward_ad._current_level >= 0:
            ctx.save_for_forward(*tensors)
        ctx.arguments = program, backend, num_species, open
        operands, species = _split(program, tensors)
        return tuple(_op.below(program, backend, species, num_species, operands, open))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        program, backend, num_species, open = ctx.arguments
        operands, species = _split(program, ctx.saved_tensors)
        slots = wanted(ctx, first=4, count=len(operands))
        tangents = {s: g for s, g in zip(open, grads, strict=True) if g is not None}
        found = _change(parse_symmetric(program), backend, species, num_species, operands, tangents, slots)
        return None, None, None, None, *(found.get(slot) for slot in range(len(operands))), *(None for _ in species)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
        # Of dual operands that record too: saved as they are, they carry their tangents into the backward.
        program, backend, num_species, open = ctx.arguments
        operands, species = _split(program, ctx.saved_tensors)
        given = {slot: t for slot, t in enumerate(tangents[4 : 4 + len(operands)]) if t is not None}
        return tuple(_changes(program, backend, species, num_species, operands, given, open))


def _changes(
    program: str,
    backend: str,
    species: list[Tensor],
    num_species: int,
    operands: list[Tensor],
    tangents: dict[int, Tensor],
    open: list[int],
) -> list[Tensor]:
    """The results' tangents."""
    symmetric = parse_symmetric(program)
    found = _change(symmetric, backend, species, num_species, operands, tangents, list(open))
    like = next(a for a in operands if a.ndim > 1)
    zero = {s: like.new_zeros(_shape(symmetric, s, species[0].shape[0], num_species)) for s in open if s not in found}
    return [found[slot] if slot in found else zero[slot] for slot in open]


def _autograd(
    program: str, backend: str, species: list[Tensor], num_species: int, operands: list[Tensor], open: list[int]
) -> Any:
    if torch.is_grad_enabled() and any(a.requires_grad for a in operands):
        return list(_SymmetricContraction.apply(program, backend, num_species, open, *operands, *species))
    if forward_ad._current_level >= 0:
        duals = [forward_ad.unpack_dual(a) for a in operands]
        tangents = {slot: dual.tangent for slot, dual in enumerate(duals) if dual.tangent is not None}
        if tangents:
            primals = [dual.primal for dual in duals]
            values = _op(program, backend, species, num_species, primals, open)
            changes = _changes(program, backend, species, num_species, primals, tangents, open)
            return [forward_ad.make_dual(value, change) for value, change in zip(values, changes, strict=True)]
    return _op.below(program, backend, species, num_species, operands, open)


_op = Op(
    "symmetric_contraction(str program, str backend, Tensor[] species, SymInt num_species, Tensor[] operands, "
    "int[] open) -> Tensor[]",
    _run,
    _fake,
    _autograd,
)


@in_float32
def symmetric_contraction(program: Symmetric, x: Tensor, weight: Tensor, species: Tensor) -> Tensor:
    """z (N, dim of z) = sum over terms of weight[species, term, c] times the term's monomial of x[n, :, c].

    x (N, dim of x), weight (species, terms, C) in the order of `program.terms`, species (N,) int64. Differentiable to
    any order. Raises ShapeError for tensors that do not fit, BackendError for a species out of range.

    >>> from equikern.program.symmetric import symmetric
    >>> square = symmetric("1x0e", "1x0e", 2)
    >>> square.terms
    ((0, (0,)), (0, (0, 0)))
    >>> weight = torch.tensor([[[1.0], [0.5]]])
    >>> symmetric_contraction(square, torch.tensor([[3.0]]), weight, torch.tensor([0]))
    tensor([[7.5000]])
    """
    if x.ndim != 2 or not x.is_floating_point() or weight.ndim != 3:
        raise ShapeError(
            f"symmetric_contraction: x is {tuple(x.shape)} {x.dtype}, weight {tuple(weight.shape)}; give "
            f"floating-point x (N, {program.irreps_x.dim}) and weight (species, {len(program.terms)}, "
            f"{program.channels})."
        )
    backend = backends.select_symmetric(x.device.type, x.dtype)
    plan = getattr(backends.symmetric[backend], "plan", None)
    kinds = [species] if plan is None else [species, *plan(species)]
    return _op(program.text, backend, kinds, weight.shape[0], [weight, x.new_empty(0), x], [Z])[0]  # type: ignore[no-any-return]
