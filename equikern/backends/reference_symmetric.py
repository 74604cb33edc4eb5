"""Symmetric contractions in plain torch: the specification."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from equikern.errors import BackendError
from equikern.program.symmetric import Symmetric, parse_symmetric

W, Z, X = range(3)


def symmetric_contraction(
    text: str, species: list[Tensor], operands: list[Tensor], results: list[Tensor | None]
) -> None:
    """Write dF/da into the results that are there; operands and results are w, z, x_S ..., absent ones have 1 axis.

    On a device, whose values are not waited for, a species out of range gives rows of NaN, and nothing to w.
    """
    program = parse_symmetric(text)
    kinds = species[0]
    known = (kinds >= 0) & (kinds < _species_count(operands, results))
    if kinds.is_cpu and _get_current_dispatch_mode() is None and not known.all():
        raise BackendError(f"symmetric contraction: species out of range.\n  program   {text}")
    kinds = torch.where(known, kinds, 0)
    columns_x, columns_z = _grids(text, kinds.device)
    like = next(r for r in results if r is not None)
    nodes, channels = kinds.shape[0], program.channels
    values = _values(program, operands, columns_x, like.new_zeros(nodes, channels))
    made = program.circuit[2]
    w = operands[W][kinds] if operands[W].ndim > 1 else None  # (N, terms, C)
    z = operands[Z][:, columns_z] if operands[Z].ndim > 1 else None  # (N, columns, C)
    dw, dz = results[W], results[Z]
    if dw is not None:
        assert z is not None
        each = [z[:, k] * values[value] for (k, _), value in zip(program.terms, made, strict=True)]
        total = torch.zeros_like(dw)
        stacked = torch.stack(each, 1) if each else like.new_zeros(nodes, 0, channels)
        dw.copy_(total.index_add_(0, kinds, torch.where(known[:, None, None], stacked, 0.0)))
    if dz is not None:
        assert w is not None
        sums = like.new_zeros(nodes, len(columns_z), channels)
        for t, ((k, _), value) in enumerate(zip(program.terms, made, strict=True)):
            sums[:, k] += w[:, t] * values[value]
        dz[:, columns_z.flatten()] = sums.flatten(1)
    if any(r is not None for r in results[X:]):
        assert w is not None and z is not None
        _backward(program, values, w, z, results[X:], columns_x)
    for result in results[Z:]:
        if result is not None:
            result.masked_fill_(~known[:, None], float("nan"))


def _species_count(operands: list[Tensor], results: list[Tensor | None]) -> int:
    return next(a.shape[0] for a in (results[W], operands[W]) if a is not None)


def _values(program: Symmetric, operands: list[Tensor], columns: Tensor, zero: Tensor) -> list[Tensor]:
    """(N, C) each."""
    size, products, _ = program.circuit
    values = []
    for x in operands[X:]:
        values += list(x[:, columns].unbind(1)) if x.ndim > 1 else [zero] * program.components
    values += [zero] * (size - len(values))
    for out, a, b in products:
        values[out] = values[out] + values[a] * values[b]
    return values


def _backward(
    program: Symmetric, values: list[Tensor], w: Tensor, z: Tensor, results: list[Tensor | None], columns: Tensor
) -> None:
    slopes = [torch.zeros_like(value) for value in values]
    _, products, made = program.circuit
    for t, ((k, _), value) in enumerate(zip(program.terms, made, strict=True)):
        slopes[value] = slopes[value] + w[:, t] * z[:, k]
    for out, a, b in reversed(products):
        slopes[a] = slopes[a] + slopes[out] * values[b]
        slopes[b] = slopes[b] + slopes[out] * values[a]
    size = program.components
    for n, result in enumerate(results):
        if result is not None:
            result[:, columns.flatten()] = torch.stack(slopes[n * size : (n + 1) * size], 1).flatten(1)


@lru_cache(maxsize=256)
def _grids(text: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """Columns (components, C) of x and of z."""
    program = parse_symmetric(text)
    channel = torch.arange(program.channels)
    grids = []
    for first, step in (program.columns_x, program.columns_z):
        grids.append((torch.from_numpy(first)[:, None] + torch.from_numpy(step)[:, None] * channel).to(device))
    return grids[0], grids[1]
