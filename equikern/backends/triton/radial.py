"""Radial bases times a cutoff, and their derivatives by the length, in Triton: an edge a row, a function a column.

The derivatives of f(r) c(r) follow by Leibniz' rule from those of f and c, which are written out:
Bessel's sin(w r) / r from those of sinc, S_m = (sin^(m)(x) - m S_(m-1)) / x, by its series below x = 2, where the
quotient cancels; a Gaussian's are Hermite polynomials times it; the polynomial cutoff is (1 - t)^3 times a polynomial.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import cache
from math import comb, factorial, pi

import torch
from torch import Tensor

from equikern.backends._radial import RadialSpec, parse_radial
from equikern.backends.triton.kernels import Kernel, float_type, unavailable
from equikern.backends.triton.text import HEADER, Lines, power_of_two

ELEMENTS = 1024  # of a program instance: edges times functions
ORDERS = 3  # derivatives that there are
TERMS = 14  # of a series: enough for float64 below 2

supports = unavailable


def _polynomial(variable: str, coefficients: list[float]) -> str:
    """By Horner's rule, constant first."""
    text = repr(coefficients[-1])
    for c in reversed(coefficients[:-1]):
        text = f"({text}) * {variable} + {c!r}"
    return text


def _bessel(out: Lines, spec: RadialSpec, order: int) -> None:
    out.add(f"wave = (k + 1).to(T) * {pi / spec.r_max!r}", "x = r * wave", "near = tl.abs(x) < 2.0")
    out.add("small = tl.where(near, x, 0.0)", "square = small * small", "far = tl.where(near, 2.0, x)")
    out.add("sine, cosine = tl.sin(far), tl.cos(far)")
    cycle = ("sine", "cosine", "-sine", "-cosine")
    power = "wave"
    for m in range(order + 1):
        quotient = cycle[m] if m == 0 else f"({cycle[m]} - {float(m)!r} * q{m - 1})"
        out.add(f"q{m} = {quotient} / far")
        first = (m + 1) // 2  # of the series' terms, those before are differentiated away
        terms = [
            (-1) ** j * factorial(2 * j) / factorial(2 * j - m) / factorial(2 * j + 1) for j in range(first, TERMS)
        ]
        odd = " * small" if m % 2 else ""
        out.add(f"near{m} = ({_polynomial('square', terms)}){odd}")
        out.add(f"f{m} = tl.where(near, near{m}, q{m}) * ({power} * {spec.factor!r})")
        power += " * wave"


def _gaussian(out: Lines, spec: RadialSpec, order: int) -> None:
    width = spec.r_max / (spec.n - 1)
    out.add(f"u = (r - k.to(T) * {width!r}) * {1 / width!r}", f"f0 = tl.exp(-0.5 * u * u) * {spec.factor!r}")
    hermite = [[1.0], [0.0, 1.0]]
    for m in range(1, order):
        shifted, before = [0.0, *hermite[m]], [*hermite[m - 1], 0.0, 0.0]
        hermite.append([a - m * b for a, b in zip(shifted, before, strict=True)])
    for m in range(1, order + 1):
        out.add(f"f{m} = f0 * ({_polynomial('u', hermite[m])}) * {(-1 / width) ** m!r}")


def _cutoff(out: Lines, spec: RadialSpec, order: int) -> None:
    if spec.cutoff == "none":
        return
    out.add(f"t = r * {1 / spec.r_max!r}", "outside = t >= 1.0", "t = tl.where(outside, 1.0, t)")
    if spec.cutoff == "cosine":
        out.add(f"c = tl.cos(t * {pi!r})", f"s = tl.sin(t * {pi!r})", "c0 = 0.5 + 0.5 * c")
        cycle = ("c", "-s", "-c", "s")
        for m in range(1, order + 1):
            out.add(f"c{m} = 0.5 * {(pi / spec.r_max) ** m!r} * ({cycle[m]})")
    else:
        p = spec.p
        quotient = [(j + 1) * (j + 2) / 2 for j in range(p - 1)] + [p * (p + 1) / 2]
        cube = ("rest * rest * rest", "-3.0 * rest * rest", "6.0 * rest", "-6.0")
        out.add("rest = 1.0 - t")
        for m in range(order + 1):
            out.add(f"g{m} = {_polynomial('t', quotient)} + 0.0 * t", f"h{m} = {cube[m]}")
            quotient = [j * c for j, c in enumerate(quotient)][1:] or [0.0]
        for m in range(order + 1):
            terms = " + ".join(f"{float(comb(m, j))!r} * h{j} * g{m - j}" for j in range(m + 1))
            out.add(f"c{m} = ({terms}) * {spec.r_max**-m!r}")
    out.add(*(f"c{m} = tl.where(outside, 0.0, c{m})" for m in range(order + 1)))


@cache
def source(text: str, order: int) -> str:
    """The kernel of a specification's derivative of an order."""
    spec, out = parse_radial(text), Lines()
    columns = power_of_two(spec.n)
    edges = max(ELEMENTS // columns, 1)
    out.add(f"e = tl.program_id(0).to(tl.int64) * {edges} + tl.arange(0, {edges})[:, None]")
    out.add(f"k = tl.arange(0, {columns})[None, :]", "r = tl.load(lengths + e, mask=e < edges, other=1.0).to(T)")
    (_bessel if spec.basis == "bessel" else _gaussian)(out, spec, order)
    _cutoff(out, spec, order)
    terms = [f"{float(comb(order, m))!r} * f{m} * c{order - m}" for m in range(order + 1)]
    value = f"f{order}" if spec.cutoff == "none" else " + ".join(terms)
    out.add(f"tl.store(out + e * {spec.n} + k, {value}, mask=(e < edges) & (k < {spec.n}))")
    head = '@triton.jit(do_not_specialize=["edges"])\ndef radial_kernel(lengths, out, edges, T: tl.constexpr):'
    return "\n".join([f"# {text}, derivative {order}\n{HEADER}{head}", *out.lines]) + "\n"


@cache
def _kernel(text: str, order: int) -> Kernel:
    return Kernel(source(text, order), "radial_kernel", num_warps=4)


def radial(text: str, r: Tensor, order: int) -> Tensor:
    """The derivative of an order, 0 to 3, of the functions of lengths r (E,): (E, n)."""
    spec = parse_radial(text)
    out = r.new_empty(r.shape[0], spec.n)
    if r.shape[0]:
        edges = max(ELEMENTS // power_of_two(spec.n), 1)
        with torch.cuda.device(r.device) if r.is_cuda else nullcontext():
            _kernel(text, order)(-(-r.shape[0] // edges), [r.contiguous(), out, r.shape[0]], float_type(r.dtype))
    return out
