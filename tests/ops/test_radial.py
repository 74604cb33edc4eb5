"""Radial bases and cutoffs: the published formulas, their limits, smoothness at the cutoff, what bad arguments give."""

from __future__ import annotations

from collections.abc import Callable
from math import pi

import numpy as np
import pytest
import torch

from equikern.errors import EquikernError
from equikern.ops.radial import bessel, cosine_cutoff, deepmd_switch, exp_normal, gaussian, length, polynomial_cutoff

R_MAX, R_MIN, N = 4.5, 1.25, 7
LENGTHS = np.linspace(0.03, 6.0, 211)
K = np.arange(1, N + 1)
COLUMN = LENGTHS[:, None]
INSIDE = LENGTHS < R_MAX


def polynomial(t: np.ndarray, p: int) -> np.ndarray:
    """The polynomial cutoff as published."""
    value = 1 - (p + 1) * (p + 2) / 2 * t**p + p * (p + 2) * t ** (p + 1) - p * (p + 1) / 2 * t ** (p + 2)
    return np.where(t < 1, value, 0)


def exp_normal_formula() -> np.ndarray:
    """The exponential-normal basis as published."""
    center = np.linspace(np.exp(-R_MAX), 1, N)
    beta = (2 / N * (1 - np.exp(-R_MAX))) ** -2
    cutoff = np.where(INSIDE, (1 + np.cos(pi * LENGTHS / R_MAX)) / 2, 0)
    return cutoff[:, None] * np.exp(-beta * (np.exp(-COLUMN) - center) ** 2)


def switch_formula() -> np.ndarray:
    """DeePMD's switch as published."""
    u = np.clip((LENGTHS - R_MIN) / (R_MAX - R_MIN), 0, 1)
    return 1 - 10 * u**3 + 15 * u**4 - 6 * u**5


CENTER = np.linspace(0, R_MAX, N)
FORMULAS = {
    "bessel-mace": (
        lambda r: bessel(r, N, R_MAX, "mace"),
        (2 / R_MAX) ** 0.5 * np.sin(K * pi * COLUMN / R_MAX) / COLUMN,
    ),
    "bessel-schnetpack": (lambda r: bessel(r, N, R_MAX, "schnetpack"), np.sin(K * pi * COLUMN / R_MAX) / COLUMN),
    "bessel-nequip": (lambda r: bessel(r, N, R_MAX, "nequip"), K * np.sinc(K * COLUMN / R_MAX)),
    "gaussian": (
        lambda r: gaussian(r, N, R_MAX),
        np.exp(-((COLUMN - CENTER) ** 2) / (2 * (CENTER[1] - CENTER[0]) ** 2)),
    ),
    "exp_normal": (lambda r: exp_normal(r, N, R_MAX), exp_normal_formula()),
    "cosine": (lambda r: cosine_cutoff(r, R_MAX), np.where(INSIDE, (1 + np.cos(pi * LENGTHS / R_MAX)) / 2, 0)),
    "polynomial-2": (lambda r: polynomial_cutoff(r, R_MAX, 2), polynomial(LENGTHS / R_MAX, 2)),
    "polynomial-5": (lambda r: polynomial_cutoff(r, R_MAX, 5), polynomial(LENGTHS / R_MAX, 5)),
    "polynomial-6": (lambda r: polynomial_cutoff(r, R_MAX), polynomial(LENGTHS / R_MAX, 6)),
    "deepmd": (lambda r: deepmd_switch(r, R_MIN, R_MAX), switch_formula()),
}
FUNCTIONS = {name: call for name, (call, _) in FORMULAS.items()}
CUTOFFS = {name: call for name, call in FUNCTIONS.items() if not name.startswith(("bessel", "gaussian"))}
TWICE_SMOOTH = {name: call for name, call in CUTOFFS.items() if name.startswith(("polynomial", "deepmd"))}

Function = Callable[[torch.Tensor], torch.Tensor]
every = pytest.mark.parametrize("call", FUNCTIONS.values(), ids=FUNCTIONS)


def jet(call: Function, r: torch.Tensor) -> list[torch.Tensor]:
    """Value, first and second derivative of each function at each r, (R, functions), by reverse mode."""
    r = r.clone().requires_grad_()
    value = call(r).reshape(len(r), -1)
    slope = [torch.autograd.grad(column.sum(), r, create_graph=True)[0] for column in value.T]
    curvature = [torch.autograd.grad(column.sum(), r, retain_graph=True)[0] for column in slope]
    return [value.detach(), torch.stack(slope, dim=1).detach(), torch.stack(curvature, dim=1)]


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 2e-6)])
def test_values_are_those_of_the_published_formula(name, dtype, tolerance):
    call, expected = FORMULAS[name]
    got = call(torch.from_numpy(LENGTHS).to(dtype))
    assert got.dtype == dtype and np.abs(got.numpy() - expected).max() < tolerance * max(1, np.abs(expected).max())


@every
def test_first_and_second_derivatives_pass_gradcheck(call):
    # 0.32 and 0.36 lie on both sides of where the second Bessel function leaves its series, 2 pi r / r_max = 0.5.
    r = torch.tensor([0.05, 0.32, 0.36, 0.8, 1.3, 2.9, 4.4, 4.6, 5.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(call, (r,)) and torch.autograd.gradgradcheck(call, (r,))


@pytest.mark.parametrize("prefactor", ["mace", "schnetpack", "nequip"])
def test_bessel_at_zero_has_the_limits_of_its_taylor_series(prefactor):
    factor = {"mace": (2 / R_MAX) ** 0.5, "schnetpack": 1.0, "nequip": R_MAX / pi}[prefactor]
    wave = torch.arange(1, N + 1, dtype=torch.float64) * pi / R_MAX
    got = jet(lambda r: bessel(r, N, R_MAX, prefactor), torch.zeros(1, dtype=torch.float64))
    expected = [factor * wave, torch.zeros_like(wave), -factor * wave**3 / 3]
    assert all(torch.allclose(a[0], b, rtol=1e-14, atol=1e-14) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bessel_near_zero_is_as_accurate_in_its_derivatives_as_elsewhere(dtype):
    r = torch.logspace(-7, -0.3, 60, dtype=torch.float64).to(dtype)
    got = jet(lambda x: bessel(x, 2, R_MAX, "schnetpack"), r)
    x = r.double()[:, None] * torch.tensor([1.0, 2.0], dtype=torch.float64) * pi / R_MAX
    wave = torch.tensor([1.0, 2.0], dtype=torch.float64) * pi / R_MAX
    # Derivatives of sin(x)/x as integrals of s^k cos/sin(s x) over 0 <= s <= 1: no cancellation.
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(24))
    s, weights = (nodes + 1) / 2, weights / 2
    phase = x[..., None] * s
    exact = [
        (phase.cos() * weights).sum(-1),
        -(s * phase.sin() * weights).sum(-1),
        -(s**2 * phase.cos() * weights).sum(-1),
    ]
    errors = [
        (a.double() - b * wave ** (k + 1)).abs().max().item() for k, (a, b) in enumerate(zip(got, exact, strict=True))
    ]
    assert max(errors) < 40 * torch.finfo(dtype).eps


@pytest.mark.parametrize("call", CUTOFFS.values(), ids=CUTOFFS)
def test_cutoffs_are_exactly_zero_with_their_derivatives_from_r_max_on(call):
    r = torch.tensor([R_MAX, R_MAX + 1e-12, 5.0, 1e3, float("inf")], dtype=torch.float64)
    assert not any(result.any() for result in jet(call, r))


@pytest.mark.parametrize("call", CUTOFFS.values(), ids=CUTOFFS)
def test_value_and_slope_vanish_towards_r_max(call):
    value, slope, _ = jet(call, torch.tensor([R_MAX * (1 - 1e-6)], dtype=torch.float64))
    assert value.abs().max() < 1e-10 and slope.abs().max() < 1e-4


@pytest.mark.parametrize("call", TWICE_SMOOTH.values(), ids=TWICE_SMOOTH)
def test_second_derivative_vanishes_towards_r_max(call):
    curvature = jet(call, torch.tensor([R_MAX * (1 - 1e-6)], dtype=torch.float64))[2]
    assert 0 < curvature.abs().max() < 1e-3


@pytest.mark.parametrize("r", [0.0, R_MIN, R_MAX])
@every
def test_no_derivative_is_nan_at_zero_or_at_the_ends_of_a_switch(call, r):
    results = jet(call, torch.tensor([r], dtype=torch.float64))
    assert all(result.isfinite().all() for result in results)


def test_cutoffs_are_one_and_flat_at_zero():
    for name, call in CUTOFFS.items():
        if name.startswith(("cosine", "polynomial-5", "polynomial-6", "deepmd")):
            value, slope, _ = jet(call, torch.zeros(1, dtype=torch.float64))
            assert value == 1 and slope == 0, name


@every
def test_nan_is_not_swallowed(call):
    assert call(torch.tensor([float("nan")])).isnan().all()


@pytest.mark.parametrize("shape", [(), (0,), (4,), (2, 3)])
def test_a_basis_adds_one_dimension_and_a_cutoff_none(shape):
    r = torch.rand(shape)
    for basis in bessel, gaussian, exp_normal:
        assert basis(r, N, R_MAX).shape == (*shape, N)
    assert (
        polynomial_cutoff(r, R_MAX).shape
        == cosine_cutoff(r, R_MAX).shape
        == deepmd_switch(r, 0.0, R_MAX).shape
        == shape
    )


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda r: bessel(r, 0, R_MAX), "n is"),
        (lambda r: bessel(r, 2, -1.0), "r_max"),
        (lambda r: bessel(r, 2, R_MAX, "unit"), "mace, schnetpack, nequip"),
        (lambda r: bessel(r.long(), 2, R_MAX), "floating-point"),
        (lambda r: gaussian(r, 1, R_MAX), ">= 2"),
        (lambda r: exp_normal(r, 2.0, R_MAX), "n is"),
        (lambda r: cosine_cutoff(r, float("inf")), "r_max"),
        (lambda r: cosine_cutoff(r, float("nan")), "r_max"),
        (lambda r: polynomial_cutoff(r, R_MAX, 1), "p is"),
        (lambda r: polynomial_cutoff(r, R_MAX, 5.5), "p is"),
        (lambda r: deepmd_switch(r, R_MAX, R_MAX), "r_min"),
        (lambda r: deepmd_switch(r, -1.0, R_MAX), "r_min"),
    ],
)
def test_arguments_that_cannot_be_are_refused(call, says):
    with pytest.raises(EquikernError, match=says):
        call(torch.ones(3))


def test_a_vector_of_zero_has_length_and_derivatives_of_zero():
    vec = torch.tensor([[0.0, 0.0, 0.0], [2.0, -1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    r = length(vec)
    (first,) = torch.autograd.grad(r.sum(), vec, create_graph=True)
    (second,) = torch.autograd.grad((first * vec.new_tensor([0.3, -1.0, 0.7])).sum(), vec)
    assert r.tolist() == [0.0, 3.0] and not first[0].any() and not second[0].any()
    assert torch.autograd.gradgradcheck(length, (vec.detach()[1:].requires_grad_(),))
    assert torch.allclose(first[1], vec[1] / 3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_length_is_the_same_with_and_without_recording(dtype):
    vec = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    vec[7] = 0
    plain, recorded = length(vec), length(vec.clone().requires_grad_())
    assert plain.dtype == dtype and plain[7] == 0
    torch.testing.assert_close(plain, recorded.detach(), rtol=2 * torch.finfo(dtype).eps, atol=0)
    assert length(torch.tensor([[3, 0, 4]])).tolist() == [5.0]
