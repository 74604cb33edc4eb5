"""Radial bases times their cutoffs against the same as MACE, SchNetPack and e3nn write them: value and two derivatives.

Bessel functions (8) with the polynomial cutoff, Gaussians (20) with the cosine cutoff, lengths between 0.5 and 6, the
cutoff at 5. MACE's and SchNetPack's forms are written out here, by their formulas.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from e3nn.math import soft_one_hot_linspace
from timing import alternate
from torch import Tensor

from equikern.ops import radial

Function = Callable[[Tensor], Tensor]
R_MAX = 5.0


def mace(r: Tensor) -> Tensor:
    """BesselBasis times PolynomialCutoff (p = 5)."""
    r = r.unsqueeze(-1)
    wave = torch.arange(1, 9, dtype=r.dtype) * (math.pi / R_MAX)
    basis = math.sqrt(2 / R_MAX) * torch.sin(wave * r) / r
    t, p = r / R_MAX, 5.0
    cut = 1 - (p + 1) * (p + 2) / 2 * t**p + p * (p + 2) * t ** (p + 1) - p * (p + 1) / 2 * t ** (p + 2)
    return basis * (cut * (r < R_MAX))


def schnetpack(r: Tensor) -> Tensor:
    """GaussianRBF times CosineCutoff."""
    centre = torch.linspace(0, R_MAX, 20, dtype=r.dtype)
    basis = torch.exp(-0.5 / (centre[1] - centre[0]) ** 2 * (r.unsqueeze(-1) - centre) ** 2)
    return basis * (0.5 * (torch.cos(r * (math.pi / R_MAX)) + 1) * (r < R_MAX)).unsqueeze(-1)


def bessel(r: Tensor) -> Tensor:
    """Ours, as MACE's."""
    return radial.bessel(r, 8, R_MAX) * radial.polynomial_cutoff(r, R_MAX, 5).unsqueeze(-1)


def gaussian(r: Tensor) -> Tensor:
    """Ours, as SchNetPack's."""
    return radial.gaussian(r, 20, R_MAX) * radial.cosine_cutoff(r, R_MAX).unsqueeze(-1)


def e3nn_gaussian(r: Tensor) -> Tensor:
    """e3nn's Gaussians (of another width) with the cosine cutoff."""
    basis = soft_one_hot_linspace(r, 0.0, R_MAX, 20, "gaussian", False)
    return basis * (0.5 * (torch.cos(r * (math.pi / R_MAX)) + 1) * (r < R_MAX)).unsqueeze(-1)


def value(f: Function, r: Tensor, g: Tensor) -> Any:
    with torch.no_grad():
        return (f(r),)


def gradient(f: Function, r: Tensor, g: Tensor) -> Any:
    r = r.detach().requires_grad_()
    return torch.autograd.grad(f(r), r, g)


def second(f: Function, r: Tensor, g: Tensor) -> Any:
    r, g = r.detach().requires_grad_(), g.detach().requires_grad_()
    (first,) = torch.autograd.grad(f(r), r, g, create_graph=True)
    return torch.autograd.grad(first.square().sum(), (r, g))


STEPS = {"value": value, "gradient": gradient, "second derivative": second}
CASES: dict[str, tuple[Function, int, dict[str, Function]]] = {
    "8 Bessel, polynomial": (bessel, 8, {"MACE's form": mace}),
    "20 Gaussians, cosine": (gaussian, 20, {"SchNetPack's form": schnetpack, "e3nn": e3nn_gaussian}),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("case", CASES)
def test_radial(benchmark: Any, case: str, edges: int, step: str, dtype: torch.dtype) -> None:
    ours, n, others = CASES[case]
    run = STEPS[step]
    r, g = 0.5 + 5.5 * torch.rand(edges, dtype=dtype), torch.randn(edges, n, dtype=dtype)
    for f in (ours, next(iter(others.values()))):
        pairs = zip(run(f, r, g), run(next(iter(others.values())), r.double(), g.double()), strict=True)
        error = max(float((a - b).norm() / b.norm()) for a, b in pairs)
        assert error < (1e-4 if dtype == torch.float32 else 1e-11), f"{case} disagrees by {error:.1e}; it is not timed"
    numbers = {"value": 1 + n, "gradient": 3 + 2 * n, "second derivative": 5 + 3 * n}[step]
    benchmark.group = f"radial {case} {edges} {step}"
    benchmark.extra_info.update(case=case, edges=edges, step=step, bytes=edges * numbers * dtype.itemsize)
    alternate(benchmark, lambda: run(ours, r, g), {name: lambda f=f: run(f, r, g) for name, f in others.items()})
