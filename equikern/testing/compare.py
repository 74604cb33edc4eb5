"""Evaluate a case on a backend, to any of the orders the suite checks, and compare tensors with a readable message."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor

from equikern import backends
from equikern.ops import evaluate
from equikern.program import Program
from equikern.testing.cases import Case, Inputs, inputs

Named = dict[str, Tensor]


def run(program: Program, given: Inputs, backend: str) -> Tensor:
    """z of a program on a backend."""
    with backends.backend(backend):
        return evaluate(program, given.operands, given.index, given.rows)


def derivatives(program: Program, given: Inputs, backend: str, order: int, draw: torch.dtype | None = None) -> Named:
    """Everything of an order, by name: z (0); gradients of <c, z> (1); gradients of the sum of <h, gradient> (2).

    c and h are fixed random tensors, drawn in the dtype `draw` (that of the inputs if not given) and widened to that of
    the inputs; the second order is taken along all inputs at once, with respect to them and to c.
    """
    if order == 0:
        return {"z": run(program, given, backend).detach()}
    generator = torch.Generator().manual_seed(1000)
    names, leaves = _leaves(program, given)
    operands = [leaves[names.index(n)] if n in names else None for n in program.names[: program.output]]
    z = run(program, Inputs(tuple(operands), given.index, given.rows), backend)
    c = torch.randn(z.shape, generator=generator, dtype=draw or z.dtype).to(z).requires_grad_()
    first = _grad((z * c).sum(), leaves, create_graph=order > 1)
    if order == 1:
        return {f"d/d{n}": g for n, g in zip(names, first, strict=True)}
    h = [torch.randn(g.shape, generator=generator, dtype=draw or g.dtype).to(g) for g in first]
    total = torch.stack([(g * t).sum() for g, t in zip(first, h, strict=True)]).sum()
    second = _grad(total, [*leaves, c], create_graph=False)
    return {f"d/d{n} of the gradient": g for n, g in zip([*names, "c"], second, strict=True)}


def _leaves(program: Program, given: Inputs) -> tuple[list[str], list[Tensor]]:
    pairs = [
        (n, a.detach().requires_grad_()) for n, a in zip(program.names, given.operands, strict=False) if a is not None
    ]
    return [n for n, _ in pairs], [a for _, a in pairs]


def _grad(scalar: Tensor, leaves: list[Tensor], *, create_graph: bool) -> tuple[Tensor, ...]:
    if not scalar.requires_grad:
        return tuple(torch.zeros_like(a) for a in leaves)
    return torch.autograd.grad(scalar, leaves, create_graph=create_graph, allow_unused=True, materialize_grads=True)


@cache
def reference(case: Case, dtype: torch.dtype, order: int, seed: int = 0) -> Mapping[str, Tensor]:
    """What is right: `derivatives` by the reference backend in float64, for the inputs drawn in `dtype`."""
    given = inputs(case, dtype, seed).to(torch.float64)
    return derivatives(case.program, given, "reference", order, draw=dtype)


def assert_close(got: Any, expected: Any, tol: float, what: str = "") -> None:
    """Raise unless |got - expected| <= tol * max |expected| for each tensor; NaN must meet NaN.

    `got` and `expected` are tensors, sequences or mappings of tensors. The message names the output, the worst element,
    its index and both values.
    """
    if isinstance(expected, Mapping):
        if set(got) != set(expected):
            raise AssertionError(f"{what or 'outputs'}: got {sorted(got)}, expected {sorted(expected)}")
        for name in expected:
            assert_close(got[name], expected[name], tol, f"{what} {name}".strip())
    elif isinstance(expected, (list, tuple)):
        if len(got) != len(expected):
            raise AssertionError(f"{what or 'outputs'}: got {len(got)} tensors, expected {len(expected)}")
        for n, (a, b) in enumerate(zip(got, expected, strict=True)):
            assert_close(a, b, tol, f"{what}[{n}]")
    else:
        _assert_tensor_close(torch.as_tensor(got), torch.as_tensor(expected), tol, what or "output")


def _assert_tensor_close(got: Tensor, expected: Tensor, tol: float, what: str) -> None:
    if got.shape != expected.shape:
        raise AssertionError(f"{what}: got shape {tuple(got.shape)}, expected {tuple(expected.shape)}")
    if expected.numel() == 0:
        return
    a, b = got.detach().to("cpu", torch.float64), expected.detach().to("cpu", torch.float64)
    finite = b[b.isfinite()]
    scale = float(finite.abs().max()) if finite.numel() else 0.0
    error = (a - b).abs()
    error[(a == b) | (a.isnan() & b.isnan())] = 0.0
    error = error.nan_to_num(nan=float("inf"), posinf=float("inf"))
    worst = int(error.argmax())
    if float(error.flatten()[worst]) > tol * scale:
        index = tuple(int(i) for i in torch.unravel_index(torch.tensor(worst), error.shape))
        wrong = int((error > tol * scale).sum())
        raise AssertionError(
            f"{what} differs in {wrong} of {error.numel()} elements.\n"
            f"  worst     {index}: got {float(a.flatten()[worst])!r}, expected {float(b.flatten()[worst])!r}\n"
            f"  error     {float(error.flatten()[worst]):.3e}, allowed {tol * scale:.3e} ({tol:.1e} of {scale:.3e})"
        )
