"""Radial bases and cutoffs of edge lengths: differentiable torch functions, smooth to second order everywhere.

r and r_max are in one unit of length; nothing here depends on which (but `exp_normal`, which is in angstrom).
The published bases differ by prefactors; the names of the libraries select them. A cutoff is exactly zero, with its
derivatives, from r_max on; the bases (but `exp_normal`) contain no cutoff: multiply by one. Half types are computed in
float32.
"""

from __future__ import annotations

from functools import lru_cache
from math import exp, factorial, isfinite, pi, prod, sqrt

import torch
from torch import Tensor

from equikern.errors import EquikernError
from equikern.ops.engine import direct, in_float32

PREFACTORS = ("mace", "schnetpack", "nequip")


def check(name: str, r: Tensor, r_max: float, n: int = 2, least: int = 1) -> None:
    """Raise EquikernError for arguments that no basis or cutoff takes."""
    if not r.is_floating_point():
        raise EquikernError(f"{name}: r is {r.dtype}; give floating-point lengths, r.to(torch.float32).")
    if not (isfinite(r_max) and r_max > 0):
        raise EquikernError(f"{name}: r_max is a finite length above 0; got {r_max!r}.")
    if not isinstance(n, int) or n < least:
        raise EquikernError(f"{name}: n is the number of functions, an integer >= {least}; got {n!r}.")


def sinc(x: Tensor) -> Tensor:
    """sin(x) / x. A series near 0, where the quotient's derivatives cancel (and torch.sinc's second one is 0)."""
    near = x.abs() < 0.5
    square = torch.where(near, x, 0.0).square()
    series = torch.full_like(x, 1 / factorial(17))
    for k in range(7, -1, -1):
        series = series * square + (-1) ** k / factorial(2 * k + 1)
    far = torch.where(near, 1.0, x)
    return torch.where(near, series, far.sin() / far)


@in_float32
def length(vec: Tensor) -> Tensor:
    """|vec|, (..., 3) -> (...); a vector of zero has length and derivatives of zero, of every order.

    >>> length(torch.tensor([[3.0, 0.0, 4.0], [0.0, 0.0, 0.0]]))
    tensor([5., 0.])
    """
    if vec.is_floating_point() and direct(vec):
        return torch.linalg.vector_norm(vec, dim=-1)  # one op for five, without derivatives at zero
    square = vec.square().sum(-1)
    zero = square == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, square).sqrt())


@in_float32
def bessel(r: Tensor, n: int, r_max: float, prefactor: str = "mace") -> Tensor:
    """Bessel basis: prefactor * sin(k pi r / r_max) / r, k = 1 ... n; (...) -> (..., n).

    The prefactor is sqrt(2 / r_max) for "mace", 1 for "schnetpack" and r_max / pi for "nequip" (as in its current
    versions, k sinc(k r / r_max)). The limit at r = 0 and its derivatives are exact. Source: arXiv:2003.03123, eq. 7.

    >>> bessel(torch.tensor(0.0), 2, 5.0, "nequip")
    tensor([1., 2.])
    """
    check("bessel", r, r_max, n)
    if prefactor not in PREFACTORS:
        raise EquikernError(f"bessel: unknown prefactor {prefactor!r}; use one of {', '.join(PREFACTORS)}.")
    factor = {"mace": sqrt(2 / r_max), "schnetpack": 1.0, "nequip": r_max / pi}[prefactor]
    wave = torch.arange(1, n + 1, dtype=r.dtype, device=r.device) * (pi / r_max)  # (n,)
    return sinc(r.unsqueeze(-1) * wave) * (wave * factor)


@in_float32
def spherical_bessel(r: Tensor, degrees: int, n: int, r_max: float) -> Tensor:
    """Spherical Bessel basis: j_l(z_lk r / r_max) / N_lk, l = 0 ... degrees - 1, k = 1 ... n.

    (...) -> (..., degrees, n).
    z_lk is the k-th zero of j_l, so that all vanish at r_max, with slopes; N_lk = |j_(l+1)(z_lk)| / sqrt(2) makes those
    of one degree orthonormal for t = r / r_max in the unit ball, dt t^2. Exact at r = 0, with two derivatives. Source:
    arXiv:2003.03123, eq. 6, without its r_max^(-3/2).

    >>> spherical_bessel(torch.tensor([0.0, 5.0]), 2, 1, 5.0).abs().round(decimals=4).flatten()
    tensor([4.4429, 0.0000, 0.0000, 0.0000])
    """
    check("spherical_bessel", r, r_max, n)
    if not isinstance(degrees, int) or degrees < 1:
        raise EquikernError(f"spherical_bessel: degrees is an integer >= 1; got {degrees!r}.")
    t, columns = (r / r_max).unsqueeze(-1), []
    for degree, (zeros, factors) in enumerate(_bessel_zeros(degrees, n)):
        columns.append(spherical_j(degree, t * t.new_tensor(zeros)) * t.new_tensor(factors))
    return torch.stack(columns, -2)


def spherical_j(l: int, x: Tensor) -> Tensor:  # noqa: E741
    """The spherical Bessel function j_l(x), x >= 0: a power series below l + 1, the recursion by degrees above."""
    near = x < l + 1
    small, x = torch.where(near, x, 0.0), torch.where(near, l + 1.0, x)
    square, series = small.square(), torch.ones_like(small)
    for k in range(20, 0, -1):
        series = 1 - series * square / (2 * k * (2 * l + 2 * k + 1))
    series = series * small**l / prod(range(1, 2 * l + 2, 2))
    below, far = x.cos() / x, x.sin() / x  # j_(-1), j_0
    for k in range(l):
        below, far = far, (2 * k + 1) / x * far - below
    return torch.where(near, series, far)


@lru_cache(maxsize=16)
def _bessel_zeros(degrees: int, n: int) -> list[tuple[list[float], list[float]]]:
    """The first n positive zeros z of j_l and sqrt(2) / |j_(l+1)(z)|, for l = 0 ... degrees - 1.

    Between two zeros of j_l lies one of j_(l+1).
    """
    brackets = torch.arange(1, n + degrees, dtype=torch.float64) * pi
    found = [brackets]
    for degree in range(1, degrees):
        low, high = brackets[:-1], brackets[1:]
        sign = spherical_j(degree, low).sign()
        for _ in range(60):
            middle = (low + high) / 2
            left = spherical_j(degree, middle).sign() == sign
            low, high = torch.where(left, middle, low), torch.where(left, high, middle)
        brackets = (low + high) / 2
        found.append(brackets)
    norms = [spherical_j(degree + 1, z[:n]).abs() / sqrt(2) for degree, z in enumerate(found)]
    return [(z[:n].tolist(), norm.reciprocal().tolist()) for z, norm in zip(found, norms, strict=True)]


@in_float32
def gaussian(r: Tensor, n: int, r_max: float) -> Tensor:
    """Gaussian basis: exp(-(r - mu_k)^2 / (2 w^2)), mu = linspace(0, r_max, n), w = mu_1 - mu_0; (...) -> (..., n).

    Source: schnetpack's GaussianRBF and torch_geometric's GaussianSmearing, which agree.

    >>> gaussian(torch.tensor(0.0), 2, 5.0)
    tensor([1.0000, 0.6065])
    """
    check("gaussian", r, r_max, n, least=2)
    center = torch.linspace(0, r_max, n, dtype=r.dtype, device=r.device)
    width = r_max / (n - 1)
    return (-0.5 * ((r.unsqueeze(-1) - center) / width).square()).exp()


@in_float32
def exp_normal(r: Tensor, n: int, r_max: float) -> Tensor:
    """Exponential-normal basis: cosine_cutoff(r) exp(-beta (exp(-r) - mu_k)^2), r in angstrom; (...) -> (..., n).

    mu = linspace(exp(-r_max), 1, n), beta = (2/n (1 - exp(-r_max)))^-2. Source: PhysNet (arXiv:1902.08408), as in
    LEFTNet.
    """
    check("exp_normal", r, r_max, n)
    first = exp(-r_max)
    center = torch.linspace(first, 1, n, dtype=r.dtype, device=r.device)
    beta = (2 / n * (1 - first)) ** -2
    normal = (-beta * ((-r).exp().unsqueeze(-1) - center).square()).exp()
    return cosine_cutoff(r, r_max).unsqueeze(-1) * normal


def _inside(t: Tensor) -> tuple[Tensor, Tensor]:
    """Where t >= 1, and t with 1 there: no derivative comes from outside. NaN counts as inside and stays."""
    outside = t >= 1
    return outside, torch.where(outside, 1.0, t)


@in_float32
def cosine_cutoff(r: Tensor, r_max: float) -> Tensor:
    """(1 + cos(pi r / r_max)) / 2 inside r_max, else 0; the first derivative is continuous, the second is not.

    >>> cosine_cutoff(torch.tensor([0.0, 5.0, 6.0]), 5.0)
    tensor([1., 0., 0.])
    """
    check("cosine_cutoff", r, r_max)
    outside, t = _inside(r / r_max)
    return torch.where(outside, 0.0, 0.5 * (1 + (pi * t).cos()))


def _smooth_step(t: Tensor, p: int) -> Tensor:
    # 1 - (p+1)(p+2)/2 t^p + p(p+2) t^(p+1) - p(p+1)/2 t^(p+2), divided by its triple root: no cancellation near 1.
    outside, t = _inside(t)
    quotient = torch.full_like(t, p * (p + 1) / 2)
    for k in range(p - 2, -1, -1):
        quotient = quotient * t + (k + 1) * (k + 2) / 2
    rest = 1 - t
    return torch.where(outside, 0.0, rest * rest * rest * quotient)


@in_float32
def polynomial_cutoff(r: Tensor, r_max: float, p: int = 6) -> Tensor:
    """1 - (p+1)(p+2)/2 t^p + p(p+2) t^(p+1) - p(p+1)/2 t^(p+2), t = r / r_max < 1, else 0; twice differentiable.

    p is an integer >= 2 (MACE: 5, NequIP: 6). Source: arXiv:2003.03123, eq. 8.

    >>> polynomial_cutoff(torch.tensor([0.0, 2.5, 5.0]), 5.0)
    tensor([1.0000, 0.8555, 0.0000])
    """
    check("polynomial_cutoff", r, r_max)
    if p != int(p) or p < 2:
        raise EquikernError(f"polynomial_cutoff: p is an integer >= 2; got {p!r}.")
    return _smooth_step(r / r_max, int(p))


@in_float32
def deepmd_switch(r: Tensor, r_min: float, r_max: float) -> Tensor:
    """1 up to r_min, then 1 - 10 u^3 + 15 u^4 - 6 u^5, u = (r - r_min) / (r_max - r_min), 0 from r_max on.

    Twice differentiable. Source: DeepPot-SE (arXiv:1805.09003) as in DeePMD-kit 2.

    >>> deepmd_switch(torch.tensor([0.5, 1.5, 3.0]), 1.0, 2.0)
    tensor([1.0000, 0.5000, 0.0000])
    """
    check("deepmd_switch", r, r_max)
    if not 0 <= r_min < r_max:
        raise EquikernError(
            f"deepmd_switch: the switch runs from r_min >= 0 to r_max > r_min; got {r_min!r}, {r_max!r}."
        )
    u = (r - r_min) / (r_max - r_min)
    return _smooth_step(torch.where(u <= 0, 0.0, u), 3)
