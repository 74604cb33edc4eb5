"""Spherical harmonics and their first two derivatives in Triton: an edge a lane, every degree in registers.

Y_l = (1/l) sum_a v_a A^l_a Y_(l-1), dY_l/dv_a = A^l_a Y_(l-1) (see `_harmonics`): the sparse A^l are written out. With
`normalize`, u = v/|v| and the chain rule; a zero vector has zero harmonics (l >= 1) and zero derivatives.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import cache

import torch
from torch import Tensor

from equikern.backends._harmonics import HarmonicsSpec, derivative, parse_spec, scale
from equikern.backends.triton.kernels import Kernel, float_type, unavailable
from equikern.backends.triton.text import HEADER, Lines, combination
from equikern.errors import BackendError

EDGES = 128  # of a program instance
LMAX = 6
VALUE, BACKWARD, DOUBLE_BACKWARD = range(3)
_ARGUMENTS = ("vec, y", "vec, z, dvec", "vec, z, h, dvec, dz")


def supports(device: str, dtype: torch.dtype, lmax: int = 0) -> str | None:
    """None if the kernels take vectors on a device and of a dtype, up to a degree, else the reason in words."""
    if lmax > LMAX:
        return f"the degrees go up to {lmax}; the kernels have {LMAX}, more take minutes to compile"
    return unavailable(device, dtype)


@cache
def source(text: str, order: int) -> str:
    """The kernel of a specification: values, gradient of sum z Y, or both derivatives of that gradient along h."""
    spec = parse_spec(text)
    out = Lines()
    names = _ARGUMENTS[order]
    out.add("e = tl.program_id(0).to(tl.int64) * EDGES + tl.arange(0, EDGES)", "inside = e < edges")
    _load(out, "v", "vec", 3)
    if order == DOUBLE_BACKWARD:
        _load(out, "h", "h", 3)
    if spec.normalize:
        out.add("size = tl.maximum(tl.maximum(tl.abs(v0), tl.abs(v1)), tl.abs(v2))", "zero = size < TINY")
        out.add("size = tl.where(zero, 1.0, size)")
        out.add(*(f"u{a} = tl.where(zero, 0.0, v{a} / size)" for a in range(3)))
        out.add("inverse = tl.where(zero, 0.0, 1.0 / tl.sqrt(tl.where(zero, 1.0, u0 * u0 + u1 * u1 + u2 * u2)))")
        out.add(*(f"u{a} = u{a} * inverse" for a in range(3)), "inverse = inverse / size")
    else:
        out.add(*(f"u{a} = v{a}" for a in range(3)))
    [_values, _gradient, _second][order](out, spec)
    head = f"def harmonics_kernel({names}, edges, T: tl.constexpr, TINY: tl.constexpr, EDGES: tl.constexpr):"
    decorator = '@triton.jit(do_not_specialize=["edges"])'
    return "\n".join([f"# {text}\n{HEADER}{decorator}", head, *out.lines]) + "\n"


def _load(out: Lines, name: str, pointer: str, dim: int) -> None:
    for a in range(dim):
        out.add(f"{name}{a} = tl.load({pointer} + e * {dim} + {a}, mask=inside, other=0.0).to(T)")


def _store(out: Lines, pointer: str, dim: int, column: int, value: str) -> None:
    out.add(f"tl.store({pointer} + e * {dim} + {column}, {value}, mask=inside)")


def _lowered(spec: HarmonicsSpec, degree: int, a: int, n: int, name: str) -> str:
    """(A^l_a)_n times the components `name<l-1>_m`."""
    row = derivative(degree, spec.normalization)[a, n]
    terms = [(float(value), f"{name}{degree - 1}_{m}") for m, value in enumerate(row) if value]
    return combination(terms) if terms else "0.0"


def _solid(out: Lines, spec: HarmonicsSpec, top: int) -> None:
    """y<l>_<n> up to a degree."""
    out.add(f"y0_0 = tl.full([EDGES], {scale(0, spec.normalization)!r}, T)")
    for degree in range(1, top + 1):
        for n in range(2 * degree + 1):
            parts = []
            for a in range(3):
                row = derivative(degree, spec.normalization)[a, n] / degree
                terms = [(float(value), f"y{degree - 1}_{m}") for m, value in enumerate(row) if value]
                parts += [f"u{a} * ({combination(terms)})"] * bool(terms)
            out.add(f"y{degree}_{n} = {' + '.join(parts)}")


def _columns(spec: HarmonicsSpec) -> list[tuple[int, int]]:
    return [(degree, n) for degree in spec.degrees for n in range(2 * degree + 1)]


def _values(out: Lines, spec: HarmonicsSpec) -> None:
    _solid(out, spec, spec.lmax)
    for column, (degree, n) in enumerate(_columns(spec)):
        _store(out, "y", spec.dim, column, f"y{degree}_{n}")


def _gradient_sums(out: Lines, spec: HarmonicsSpec) -> None:
    """g<a> = sum over columns of z J_a."""
    out.add(*(f"g{a} = tl.zeros([EDGES], T)" for a in range(3)))
    for column, (degree, n) in enumerate(_columns(spec)):
        for a in range(3):
            if degree and (lowered := _lowered(spec, degree, a, n, "y")) != "0.0":
                out.add(f"g{a} += z{column} * ({lowered})")


def _gradient(out: Lines, spec: HarmonicsSpec) -> None:
    _load(out, "z", "z", spec.dim)
    _solid(out, spec, spec.lmax - 1)
    _gradient_sums(out, spec)
    if spec.normalize:
        out.add("ug = u0 * g0 + u1 * g1 + u2 * g2")
        out.add(*(f"g{a} = (g{a} - u{a} * ug) * inverse" for a in range(3)))
    for a in range(3):
        _store(out, "dvec", 3, a, f"g{a}")


def _second(out: Lines, spec: HarmonicsSpec) -> None:
    _load(out, "z", "z", spec.dim)
    _solid(out, spec, spec.lmax - 1)
    if spec.normalize:
        out.add("uh = u0 * h0 + u1 * h1 + u2 * h2")
        out.add(*(f"k{a} = (h{a} - u{a} * uh) * inverse" for a in range(3)))
    else:
        out.add(*(f"k{a} = h{a}" for a in range(3)))
    # w<l>_<n>: the derivative of Y along k.
    out.add("w0_0 = tl.zeros([EDGES], T)")
    for degree in range(1, spec.lmax + 1):
        for n in range(2 * degree + 1):
            parts = [(a, _lowered(spec, degree, a, n, "y")) for a in range(3)]
            terms = [f"k{a} * ({lowered})" for a, lowered in parts if lowered != "0.0"]
            out.add(f"w{degree}_{n} = {' + '.join(terms)}")
    for column, (degree, n) in enumerate(_columns(spec)):
        _store(out, "dz", spec.dim, column, f"w{degree}_{n}")
    # The Hessian of sum z Y, times k.
    out.add(*(f"d{a} = tl.zeros([EDGES], T)" for a in range(3)))
    for column, (degree, n) in enumerate(_columns(spec)):
        for a in range(3):
            if degree and (lowered := _lowered(spec, degree, a, n, "w")) != "0.0":
                out.add(f"d{a} += z{column} * ({lowered})")
    if spec.normalize:
        _gradient_sums(out, spec)
        out.add("ug = u0 * g0 + u1 * g1 + u2 * g2", "hg = h0 * g0 + h1 * g1 + h2 * g2")
        out.add(*(f"d{a} = d{a} - inverse * (h{a} * ug + uh * g{a})" for a in range(3)))
        out.add("ud = u0 * d0 + u1 * d1 + u2 * d2 + inverse * (hg - uh * ug)")
        out.add(*(f"d{a} = inverse * (d{a} - u{a} * ud)" for a in range(3)))
    for a in range(3):
        _store(out, "dvec", 3, a, f"d{a}")


def _run(order: int, text: str, *tensors: Tensor) -> None:
    vec = tensors[0]
    reason = supports(vec.device.type, vec.dtype, parse_spec(text).lmax)
    if reason:
        raise BackendError(f"backend 'triton' cannot run harmonics: {reason}; use backend 'reference'.")
    if vec.shape[0] == 0:
        return
    wide = torch.promote_types(vec.dtype, torch.float32)
    constants = float_type(vec.dtype), torch.finfo(wide).tiny, EDGES
    with torch.cuda.device(vec.device) if vec.is_cuda else nullcontext():
        kernel(text, order)(-(-vec.shape[0] // EDGES), [*tensors, vec.shape[0]], *constants)


@cache
def kernel(text: str, order: int) -> Kernel:
    """Of a specification, for values, gradients or second derivatives."""
    return Kernel(source(text, order), "harmonics_kernel", num_warps=4)


def harmonics(text: str, vec: Tensor) -> Tensor:
    """Y(vec), (E, dim), of vec (E, 3)."""
    out = vec.new_empty(vec.shape[0], parse_spec(text).dim)
    _run(VALUE, text, vec.contiguous(), out)
    return out


def harmonics_backward(text: str, vec: Tensor, z: Tensor) -> Tensor:
    """dG/dvec, (E, 3), of G = sum z Y(vec), z (E, dim)."""
    dvec = vec.new_empty(vec.shape)
    _run(BACKWARD, text, vec.contiguous(), z.contiguous(), dvec)
    return dvec


def harmonics_double_backward(
    text: str, vec: Tensor, z: Tensor, h: Tensor, need_vec: bool = True, need_z: bool = True
) -> tuple[Tensor, Tensor]:
    """Derivatives of sum h dG/dvec with respect to vec (E, 3) and z (E, dim); one not needed has no rows."""
    dvec, dz = vec.new_empty(vec.shape), vec.new_empty(vec.shape[0], parse_spec(text).dim)
    _run(DOUBLE_BACKWARD, text, vec.contiguous(), z.contiguous(), h.contiguous(), dvec, dz)
    return dvec if need_vec else dvec[:0], dz if need_z else dz[:0]
