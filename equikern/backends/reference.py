"""The specification: any program, any derivative, any float dtype, one einsum a term. Clear and slow on purpose."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from equikern.program import EDGE, SHARED, Program, parse

name = "reference"


def supports(program: Program, device: str, dtype: torch.dtype) -> str | None:
    """None: it runs everything with a floating dtype."""
    return None if dtype.is_floating_point else f"operands are {dtype}; it needs a floating dtype"


def contract(
    program: Program, operands: list[Tensor], index: list[Tensor], rows: list[int], open: list[int]
) -> list[Tensor]:
    """dF/da for each open slot, `rows[n]` rows each; an absent operand (one dimension, no element) stands for zero."""
    present = next(a for a in operands if a.ndim == 2)
    compute = torch.promote_types(present.dtype, torch.float32)
    where = dict(zip(program.index_kinds, index, strict=False))
    edges = _edges(program, operands, where, rows, open)
    gathered = {}
    for slot, a in enumerate(operands):
        if a.ndim == 2:
            kind = program.slots[slot].row
            gathered[slot] = (a[_rows(program, slot, where)].flatten(1) if kind in where else a).to(compute)
    results = []
    for slot, n in zip(open, rows, strict=True):
        kind = program.slots[slot].row
        window, dim = len(program.slots[slot].offsets), program.dims[slot]
        local = present.new_zeros(1 if kind == SHARED else edges, window * dim, dtype=compute)
        for t in range(len(program.terms)):
            _add_term(program, t, slot, gathered, local, edges)
        if kind in where:
            rows_of = _rows(program, slot, where).flatten()
            local = local.new_zeros(n, dim).index_add_(0, rows_of, local.reshape(edges * window, dim))
        results.append(local.to(present.dtype))
    return results


def _rows(program: Program, slot: int, where: dict[str, Tensor]) -> Tensor:
    """(E, number of offsets): the rows of an indexed operand that each edge reads."""
    first = where[program.slots[slot].row]
    return first[:, None] + _offsets(program.slots[slot].offsets, first.device)


def _edges(program: Program, operands: list[Tensor], where: dict[str, Tensor], rows: list[int], open: list[int]) -> int:
    if where:
        return len(next(iter(where.values())))
    sizes = [len(a) for a, slot in zip(operands, program.slots, strict=True) if a.ndim == 2 and slot.row == EDGE]
    return (sizes + [n for slot, n in zip(open, rows, strict=True) if program.slots[slot].row == EDGE])[0]


def _add_term(program: Program, t: int, slot: int, gathered: dict[int, Tensor], local: Tensor, edges: int) -> None:
    """Add dterm/da to `local`, for each time the term reads the slot."""
    term = program.terms[t]
    for k, opened in enumerate(term.reads):
        rest = [n for n in range(len(term.reads)) if n != k]
        if opened.slot != slot or any(term.reads[n].slot not in gathered for n in rest):
            continue
        arguments, equation = [], []
        for n in rest:
            read = term.reads[n]
            shared = program.slots[read.slot].row == SHARED
            part = gathered[read.slot][:, _columns(str(program), t, n, local.device)]
            arguments.append(part.reshape(read.shape) if shared else part.reshape(edges, *read.shape))
            equation.append(read.letters if shared else "n" + read.letters)
        shared = program.slots[slot].row == SHARED
        arguments.append(_coefficient(str(program), t, local.dtype, local.device))
        missing = set(opened.letters) - set("".join(equation)) - set(term.letters)
        if missing or (not shared and not any(e.startswith("n") for e in equation)):
            letters = "".join(sorted(missing)) if shared else "n" + "".join(sorted(missing))
            sizes = dict(zip(opened.letters, opened.shape, strict=True)) | {"n": edges}
            arguments.append(local.new_ones([sizes[c] for c in letters]))
            equation.append(term.letters)
            out = ",".join(equation) + "," + letters
        else:
            out = ",".join([*equation, term.letters])
        result = torch.einsum(f"{out}->{'' if shared else 'n'}{opened.letters}", *arguments)
        columns = _columns(str(program), t, k, local.device)
        local.index_add_(1, columns, result.reshape(len(local), len(opened.columns)))


# Kept for each device, so that no call copies from the host.


@lru_cache(maxsize=4096)
def _columns(text: str, t: int, k: int, device: torch.device) -> Tensor:
    return torch.as_tensor(parse(text).terms[t].reads[k].columns, device=device)


@lru_cache(maxsize=4096)
def _coefficient(text: str, t: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(parse(text).terms[t].coefficient, dtype=dtype, device=device)


@lru_cache(maxsize=256)
def _offsets(offsets: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(offsets, device=device)
