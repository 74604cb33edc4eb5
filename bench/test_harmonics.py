"""Spherical harmonics against sphericart and e3nn: value, gradient (forward and backward), second derivative.

All normalise the vectors and give orthonormal functions ("integral"). The second derivative is that of forces: the
gradient along a cotangent z is differentiated with respect to the vectors and to z. sphericart (its x y z are e3nn's
z x y, and the vectors are turned before the clock starts) is `pip install sphericart-torch`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from e3nn import o3
from timing import alternate
from torch import Tensor

from equikern.ops.harmonics import spherical_harmonics

Function = Callable[[Tensor], Tensor]


def value(f: Function, vec: Tensor, z: Tensor, h: Tensor) -> tuple[Tensor, ...]:
    """Y(vec)."""
    with torch.no_grad():
        return (f(vec),)


def gradient(f: Function, vec: Tensor, z: Tensor, h: Tensor) -> tuple[Tensor, ...]:
    """d(z . Y)/dvec."""
    vec = vec.detach().requires_grad_()
    return torch.autograd.grad(f(vec), vec, z)


def second(f: Function, vec: Tensor, z: Tensor, h: Tensor) -> tuple[Tensor, ...]:
    """The gradient's product with h, differentiated with respect to vec and z."""
    vec, z = vec.detach().requires_grad_(), z.detach().requires_grad_()
    (first,) = torch.autograd.grad(f(vec), vec, z, create_graph=True)
    return torch.autograd.grad(first, (vec, z), h)


STEPS = {"value": value, "gradient": gradient, "second derivative": second}


def rivals(lmax: int) -> tuple[dict[str, Function], dict[str, str]]:
    """The rivals that are installed, and why others are not timed."""
    degrees = list(range(lmax + 1))
    found: dict[str, Function] = {"e3nn": lambda vec: o3.spherical_harmonics(degrees, vec, True, "integral")}
    try:
        calculator = importlib.import_module("sphericart.torch").SphericalHarmonics(lmax)
    except (ImportError, OSError) as error:
        return found, {"sphericart": f"not importable: {error}"}
    return {"sphericart": calculator, **found}, {}


def turned(vectors: Tensor) -> Tensor:
    """e3nn's vectors in sphericart's axes, and back by `vectors[:, [1, 2, 0]]`."""
    return vectors[:, [2, 0, 1]].contiguous()


def back(results: tuple[Tensor, ...]) -> list[Tensor]:
    """sphericart's results in e3nn's axes: those with three columns are vectors."""
    return [t[:, [1, 2, 0]] if t.shape[1] == 3 else t for t in results]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("lmax", range(1, 7))
def test_harmonics(benchmark: Any, lmax: int, edges: int, step: str, dtype: torch.dtype) -> None:
    degrees, run = list(range(lmax + 1)), STEPS[step]
    vec, h = torch.randn(2, edges, 3, dtype=dtype)
    z = torch.randn(edges, (lmax + 1) ** 2, dtype=dtype)
    others, skipped = rivals(lmax)

    def ours(vec: Tensor) -> Tensor:
        return spherical_harmonics(degrees, vec, True, "integral")

    arguments = {name: (vec, z, h) for name in others} | {"sphericart": (turned(vec), z, turned(h))}
    expected = run(
        lambda vec: o3.spherical_harmonics(degrees, vec, True, "integral"), vec.double(), z.double(), h.double()
    )
    limit = 1e-5 if dtype == torch.float32 else 1e-12
    for name, f in {"equikern": ours, **others}.items():
        results = run(f, *arguments.get(name, (vec, z, h)))
        results = back(results) if name == "sphericart" else results
        scale = [(t - e).norm() / e.norm() for t, e in zip(results, expected, strict=True)]
        assert max(scale) < limit, f"{name} disagrees with e3nn in float64 by {max(scale):.1e}; it is not timed"
    benchmark.group = f"harmonics lmax {lmax} {edges} {step}"
    rows = edges * dtype.itemsize
    read = {"value": 3, "gradient": 6 + (lmax + 1) ** 2, "second derivative": 9 + (lmax + 1) ** 2}[step]
    written = {"value": (lmax + 1) ** 2, "gradient": 3 + (lmax + 1) ** 2, "second derivative": 6 + 2 * (lmax + 1) ** 2}[
        step
    ]
    benchmark.extra_info.update(
        case=f"lmax {lmax}", edges=edges, step=step, skipped=skipped, bytes=rows * (read + written)
    )
    timed = {name: lambda f=f, a=arguments[name]: run(f, *a) for name, f in others.items()}
    alternate(benchmark, lambda: run(ours, vec, z, h), timed)
