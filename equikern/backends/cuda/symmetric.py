"""Symmetric contractions in CUDA C++: starts the kernels that `symmetric_source` writes and symmetric.cuh completes."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from equikern.backends import cuda
from equikern.backends.cuda import driver
from equikern.backends.cuda.emit import Reals
from equikern.backends.cuda.launch import NARROW, address, aligned, reals
from equikern.backends.cuda.symmetric_source import (
    THREADS,
    chunk_source,
    lanes,
    node_source,
    nodes_of_thread,
    sum_source,
)
from equikern.errors import BackendError
from equikern.program.symmetric import Symmetric, parse_symmetric

CHUNKS, SHORTEST = 256, 16  # of nodes that one thread sums gradients of w over: how many, unless they become too short
W, Z, X = range(3)


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None if the kernels take features on a device and of a dtype, else the reason in words."""
    return cuda.unavailable(device, torch.float32 if dtype in NARROW else dtype)


def plan(species: Tensor) -> tuple[Tensor, Tensor]:
    """The species (N,), ascending, and the nodes that are of them."""
    return species.sort(stable=True)  # type: ignore[return-value]


def symmetric_contraction(
    text: str, species: list[Tensor], operands: list[Tensor], results: list[Tensor | None]
) -> None:
    """Write dF/da into the results that are there; operands and results are w, z, x_S ..., absent ones have 1 axis.

    species: those of the nodes and their plan, which is made where it is missing. Nothing waits for the device: a node
    of a species out of range has rows of NaN, and no share in the gradient of w.
    """
    program = parse_symmetric(text)
    like = next(r for r in results if r is not None)
    if (reason := supports(like.device.type, like.dtype)) is not None:
        raise BackendError(f"backend 'cuda' cannot run a symmetric contraction: {reason}; use backend 'reference'.")
    with torch.cuda.device(like.device) if like.is_cuda else nullcontext():
        planned = species[1:] or plan(species[0])
        _start(program, reals(like.dtype), [a.contiguous() for a in planned], operands, results)


def _start(
    program: Symmetric,
    types: Reals,
    planned: list[Tensor],
    operands: list[Tensor],
    results: list[Tensor | None],
) -> None:
    nodes, size = planned[0].shape[0], len(program.terms) * program.channels
    opens = tuple(slot for slot, result in enumerate(results) if result is not None)
    count = next(a.shape[0] for a in (results[W], operands[W]) if a is not None)
    if not (nodes and size and count):
        for slot in opens:
            results[slot].fill_(float("nan") if nodes and size else 0.0)  # type: ignore[union-attr]
        return
    given = [aligned(a.contiguous()) if a.ndim > 1 else None for a in operands]
    chunk = max(SHORTEST, -(-nodes // CHUNKS))
    chunks = -(-nodes // chunk)
    part = None
    if (dw := results[W]) is not None:
        part = dw.new_empty(chunks + count, size, dtype=torch.promote_types(dw.dtype, torch.float32))
    # The arguments are those of `Contraction` in symmetric.cuh.
    tensors = [*given, results[W], results[Z], part, *results[X:], *planned]
    words = [*map(address, tensors), nodes, count, chunk]
    blocks, groups = -(-program.channels // lanes(program)), THREADS // lanes(program)
    if opened := tuple(slot for slot in opens if slot != W):
        each = groups * nodes_of_thread(program, types)
        source = node_source(program.text, opened, types)
        driver.start(source, "node_kernel", (-(-nodes // each), blocks), THREADS, words)
    if W in opens:
        source, parts = chunk_source(program.text, types)
        driver.start(source, "chunk_kernel", (-(-chunks // groups), blocks * parts), THREADS, words)
        source = sum_source(program.text, types)
        driver.start(source, "sum_kernel", (-(-size // THREADS), count), THREADS, words)
