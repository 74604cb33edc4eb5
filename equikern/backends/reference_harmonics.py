"""Spherical harmonics and their first two derivatives in plain differentiable torch: the specification, any device.

Y_l = (1/l) sum_a v_a A^l_a Y_(l-1), J_a = dY/dv_a = A_a Y, and the Hessian is A A Y (see `_harmonics`). With
`normalize`, u = v/|v| and the chain rule; a zero vector has zero harmonics (l >= 1) and zero derivatives.
Half types are computed in float32.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from equikern.backends._harmonics import HarmonicsSpec, derivative, parse_spec, scale


def supports(device: str, dtype: torch.dtype, lmax: int = 0) -> str | None:
    """None: it takes every floating dtype, anywhere."""
    return None if dtype.is_floating_point else f"the vectors are {dtype}; they need a floating dtype"


def _wide(*tensors: Tensor) -> list[Tensor]:
    return [t.float() if t.dtype in (torch.float16, torch.bfloat16) else t for t in tensors]


def _unit(vec: Tensor) -> tuple[Tensor, Tensor]:
    """vec/|vec| (E, 3) and 1/|vec| (E, 1), both zero (with zero derivatives) for a vector of no or subnormal length."""
    size = vec.detach().abs().amax(dim=-1, keepdim=True)
    zero = size < torch.finfo(vec.dtype).tiny
    size = torch.where(zero, 1.0, size)
    scaled = torch.where(zero, 1.0, vec / size)
    inverse = scaled.square().sum(dim=-1, keepdim=True).rsqrt()
    return torch.where(zero, 0.0, scaled * inverse), torch.where(zero, 0.0, inverse / size)


def _table(degree: int, spec: HarmonicsSpec, like: Tensor) -> Tensor:
    """A^l (3, 2l+1, 2l-1), kept for each device so that no call copies from the host; not where `like` is traced."""
    make = _kept_table if type(like) is Tensor else _kept_table.__wrapped__
    return make(degree, spec.normalization, like.dtype, like.device)


@lru_cache(maxsize=256)
def _kept_table(degree: int, normalization: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.from_numpy(derivative(degree, normalization).copy()).to(device, dtype)


def _lower(spec: HarmonicsSpec, y: list[Tensor], like: Tensor) -> list[Tensor]:
    """The derivative of every degree, (E, 3, 2l+1), from the components of the degrees below."""
    lowered = [like.new_zeros(like.shape[0], 3, 1)]
    for degree in range(1, spec.lmax + 1):
        lowered.append(torch.einsum("anm,em->ean", _table(degree, spec, like), y[degree - 1]))
    return lowered


def _solid(spec: HarmonicsSpec, vec: Tensor) -> list[Tensor]:
    """The polynomials Y_0 ... Y_lmax, each (E, 2l+1)."""
    y = [vec.new_full((vec.shape[0], 1), scale(0, spec.normalization))]
    for degree in range(1, spec.lmax + 1):
        table = _table(degree, spec, vec) / degree
        y.append(torch.einsum("ea,anm,em->en", vec, table, y[-1]))
    return y


def _columns(spec: HarmonicsSpec, parts: list[Tensor]) -> Tensor:
    return torch.cat([parts[degree] for degree in spec.degrees], dim=-1)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=-1, keepdim=True)


def harmonics(text: str, vec: Tensor) -> Tensor:
    """Y(vec), (E, dim), of vec (E, 3)."""
    spec = parse_spec(text)
    (v,) = _wide(vec)
    return _columns(spec, _solid(spec, _unit(v)[0] if spec.normalize else v)).to(vec.dtype)


def harmonics_backward(text: str, vec: Tensor, z: Tensor) -> Tensor:
    """dG/dvec, (E, 3), of G = sum z Y(vec), z (E, dim)."""
    spec = parse_spec(text)
    v, z = _wide(vec, z)
    u, inverse = _unit(v) if spec.normalize else (v, v)
    g = torch.einsum("ean,en->ea", _columns(spec, _lower(spec, _solid(spec, u), u)), z)
    if spec.normalize:
        g = (g - u * _dot(u, g)) * inverse
    return g.to(vec.dtype)


def harmonics_double_backward(
    text: str, vec: Tensor, z: Tensor, h: Tensor, need_vec: bool = True, need_z: bool = True
) -> tuple[Tensor, Tensor]:
    """Derivatives of sum h dG/dvec with respect to vec (E, 3) and z (E, dim); one not needed has no rows."""
    spec = parse_spec(text)
    v, z, h = _wide(vec, z, h)
    u, inverse = _unit(v) if spec.normalize else (v, v)
    along = (h - u * _dot(u, h)) * inverse if spec.normalize else h
    jacobian = _lower(spec, _solid(spec, u), u)
    w = [torch.einsum("ea,ean->en", along, part) for part in jacobian]
    dvec = torch.einsum("ean,en->ea", _columns(spec, _lower(spec, w, u)), z)  # Hessian of G at u, times along
    if spec.normalize:
        g = torch.einsum("ean,en->ea", _columns(spec, jacobian), z)
        uh, ug = _dot(u, h), _dot(u, g)
        dvec = dvec - inverse * (h * ug + uh * g)
        dvec = inverse * (dvec - u * (_dot(u, dvec) + inverse * (_dot(h, g) - uh * ug)))
    dz = _columns(spec, w)
    return (dvec if need_vec else dvec[:0]).to(vec.dtype), (dz if need_z else dz[:0]).to(vec.dtype)
