"""Spherical harmonics of edge vectors, as torch ops whose every derivative is an op.

G(v, z) = sum_c z_c Y_c(v). `harmonics` is dG/dz, `harmonics_backward` is dG/dv, `harmonics_double_backward` the two
derivatives of h . dG/dv; the derivatives of the last (third order) are taken by autograd through the torch reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from operator import index
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from equikern import backends
from equikern.backends import reference_harmonics
from equikern.backends._harmonics import HarmonicsSpec, parse_spec
from equikern.backends.constant import constant
from equikern.errors import BackendError, ShapeError
from equikern.ops.engine import Function, Op, autocasts, wanted, wide


def _implementation(backend: str) -> Any:
    if backend not in backends.harmonics:
        raise BackendError(f"backend {backend!r} has no harmonics; use one of {', '.join(backends.harmonics)}.")
    return backends.harmonics[backend]


def _check(spec: str, vec: Tensor, z: Tensor | None = None, h: Tensor | None = None) -> None:
    shapes = {"vec": (vec, 3), "z": (z, parse_spec(spec).dim), "h": (h, 3)}
    for name, (tensor, columns) in shapes.items():
        if tensor is None:
            continue
        if tensor.dim() != 2 or tensor.shape[1] != columns or tensor.shape[0] != vec.shape[0]:
            expected = f"({vec.shape[0] if vec.dim() == 2 else 'E'}, {columns})"
            raise ShapeError(f"harmonics: operand {name!r} has shape {tuple(tensor.shape)}; '{spec}' reads {expected}.")
        if tensor.dtype != vec.dtype or tensor.device != vec.device:
            raise ShapeError(
                f"harmonics: operand {name!r} is {tensor.dtype} on {tensor.device}, but 'vec' is {vec.dtype} on "
                f"{vec.device}; bring them to one dtype and device."
            )


def _harmonics(spec: str, backend: str, vec: Tensor) -> Tensor:
    _check(spec, vec)
    return _implementation(backend).harmonics(spec, vec)


def _backward(spec: str, backend: str, vec: Tensor, z: Tensor) -> Tensor:
    _check(spec, vec, z)
    return _implementation(backend).harmonics_backward(spec, vec, z)


def _double_backward(
    spec: str, backend: str, vec: Tensor, z: Tensor, h: Tensor, need_vec: bool = True, need_z: bool = True
) -> tuple[Tensor, Tensor]:
    _check(spec, vec, z, h)
    return _implementation(backend).harmonics_double_backward(spec, vec, z, h, need_vec, need_z)


def _fake_harmonics(spec: str, backend: str, vec: Tensor) -> Tensor:
    return vec.new_empty(vec.shape[0], parse_spec(spec).dim)


def _fake_backward(spec: str, backend: str, vec: Tensor, z: Tensor) -> Tensor:
    return vec.new_empty(vec.shape[0], 3)


def _fake_double_backward(
    spec: str, backend: str, vec: Tensor, z: Tensor, h: Tensor, need_vec: bool = True, need_z: bool = True
) -> tuple[Tensor, Tensor]:
    dz = vec.new_empty(vec.shape[0] if need_z else 0, parse_spec(spec).dim)
    return vec.new_empty(vec.shape[0] if need_vec else 0, 3), dz


class _Harmonics(Function):
    @staticmethod
    def forward(ctx: Any, spec: str, backend: str, vec: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(vec)
        if forward_ad._current_level >= 0:
            ctx.save_for_forward(vec)
        ctx.names = spec, backend
        return _harmonics_op.below(spec, backend, vec)

    @staticmethod
    def backward(ctx: Any, z: Tensor | None) -> tuple[Tensor | None, ...]:
        if z is None:
            return None, None, None
        return None, None, _backward_op(*ctx.names, *ctx.saved_tensors, z)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        # Of a dual vec that records too: saved as it is, it carries its tangent into the backward.
        (vec,) = ctx.saved_tensors
        spec, backend = ctx.names
        return _change(spec, backend, vec, tangents[2])


class _HarmonicsBackward(Function):
    @staticmethod
    def forward(ctx: Any, spec: str, backend: str, vec: Tensor, z: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(vec, z)
        if forward_ad._current_level >= 0:
            ctx.save_for_forward(vec, z)
        ctx.names = spec, backend
        return _backward_op.below(spec, backend, vec, z)

    @staticmethod
    def backward(ctx: Any, h: Tensor | None) -> tuple[Tensor | None, ...]:
        slots = wanted(ctx, first=2, count=2)
        if h is None or not slots:
            return None, None, None, None
        need_vec, need_z = 0 in slots, 1 in slots
        dvec, dz = _double_backward_op(*ctx.names, *ctx.saved_tensors, h, need_vec, need_z)
        return None, None, dvec if need_vec else None, dz if need_z else None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        vec, z = ctx.saved_tensors
        spec, backend = ctx.names
        return _backward_change(spec, backend, vec, z, tangents[2], tangents[3])


class _HarmonicsDoubleBackward(Function):
    @staticmethod
    def forward(
        ctx: Any, spec: str, backend: str, need_vec: bool, need_z: bool, vec: Tensor, z: Tensor, h: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(vec, z, h)
        ctx.spec, ctx.need = spec, (need_vec, need_z)
        return _double_backward_op.below(spec, backend, vec, z, h, need_vec, need_z)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        slots = wanted(ctx, first=4, count=3)
        given = [i for i in range(2) if cotangents[i] is not None and ctx.need[i]]
        gradients: list[Tensor | None] = [None] * 3
        if given and slots:
            with torch.enable_grad():
                # Aliases: one input may depend on another, and only the partial derivatives are asked for.
                inputs = [tensor.view_as(tensor) for tensor in ctx.saved_tensors]
                for slot in slots:
                    inputs[slot].requires_grad_()
                outputs = reference_harmonics.harmonics_double_backward(ctx.spec, *inputs, *ctx.need)
            found = torch.autograd.grad(
                [outputs[i] for i in given],
                [inputs[slot] for slot in slots],
                [cotangents[i] for i in given],
                create_graph=torch.is_grad_enabled(),
                allow_unused=True,
            )
            for slot, gradient in zip(slots, found, strict=True):
                gradients[slot] = gradient
        return None, None, None, None, *gradients


def _records(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _tangents(*tensors: Tensor) -> list[Tensor | None] | None:
    """The forward-mode tangents of the operands, None when there are none."""
    if forward_ad._current_level < 0:
        return None
    tangents = [forward_ad.unpack_dual(tensor).tangent for tensor in tensors]
    return tangents if any(tangent is not None for tangent in tangents) else None


def _primals(*tensors: Tensor) -> list[Tensor]:
    return [forward_ad.unpack_dual(tensor).primal for tensor in tensors]


def _change(spec: str, backend: str, vec: Tensor, along: Tensor) -> Tensor:
    """The tangent of Y."""
    zero = vec.new_zeros(vec.shape[0], parse_spec(spec).dim)
    return _double_backward_op(spec, backend, vec, zero, along, False)[1]  # type: ignore[no-any-return]


def _backward_change(
    spec: str, backend: str, vec: Tensor, z: Tensor, along_vec: Tensor | None, along_z: Tensor | None
) -> Tensor:
    """The tangent of the gradient."""
    change = torch.zeros_like(vec)
    if along_vec is not None:
        # The Hessian is symmetric: its product with the tangent is the derivative with respect to vec.
        change = change + _double_backward_op(spec, backend, vec, z, along_vec, True, False)[0]
    if along_z is not None:
        change = change + _backward_op(spec, backend, vec, along_z)
    return change


def _autograd_harmonics(spec: str, backend: str, vec: Tensor) -> Tensor:
    if _records(vec):
        return _Harmonics.apply(spec, backend, vec)
    tangents = _tangents(vec)
    if tangents is not None and tangents[0] is not None:
        (primal,) = _primals(vec)
        return forward_ad.make_dual(_harmonics_op(spec, backend, primal), _change(spec, backend, primal, tangents[0]))
    return _harmonics_op.below(spec, backend, vec)


def _autograd_backward(spec: str, backend: str, vec: Tensor, z: Tensor) -> Tensor:
    if _records(vec, z):
        return _HarmonicsBackward.apply(spec, backend, vec, z)
    tangents = _tangents(vec, z)
    if tangents is not None:
        vec, z = _primals(vec, z)
        value = _backward_op(spec, backend, vec, z)
        return forward_ad.make_dual(value, _backward_change(spec, backend, vec, z, *tangents))
    return _backward_op.below(spec, backend, vec, z)


def _autograd_double_backward(
    spec: str, backend: str, vec: Tensor, z: Tensor, h: Tensor, need_vec: bool = True, need_z: bool = True
) -> tuple[Tensor, Tensor]:
    if _tangents(vec, z, h) is not None:
        raise BackendError(
            "harmonics: forward-mode derivatives go up to the gradient; for the double backward take reverse mode."
        )
    if _records(vec, z, h):
        return _HarmonicsDoubleBackward.apply(spec, backend, need_vec, need_z, vec, z, h)
    return _double_backward_op.below(spec, backend, vec, z, h, need_vec, need_z)


_harmonics_op = Op(
    "harmonics(str spec, str backend, Tensor vec) -> Tensor",
    _harmonics,
    _fake_harmonics,
    _autograd_harmonics,
)
_backward_op = Op(
    "harmonics_backward(str spec, str backend, Tensor vec, Tensor z) -> Tensor",
    _backward,
    _fake_backward,
    _autograd_backward,
)
_double_backward_op = Op(
    "harmonics_double_backward(str spec, str backend, Tensor vec, Tensor z, Tensor h, bool need_vec=True, "
    "bool need_z=True) -> (Tensor dvec, Tensor dz)",
    _double_backward,
    _fake_double_backward,
    _autograd_double_backward,
)


@lru_cache(maxsize=1024)
def _text(degrees: tuple[Any, ...], normalization: str, normalize: bool) -> str:
    # numpy's integers too; what is no integer is refused by the specification.
    degrees = tuple(index(degree) if hasattr(degree, "__index__") else degree for degree in degrees)
    return HarmonicsSpec(degrees, normalization, normalize).text


@constant
def _constant_text(degrees: tuple[Any, ...], normalization: str, normalize: bool) -> str:
    return _text(degrees, normalization, normalize)


def spherical_harmonics(
    l: int | Sequence[int],  # noqa: E741
    x: Tensor,
    normalize: bool,
    normalization: str = "integral",
    *,
    backend: str | None = None,
) -> Tensor:
    """Real spherical harmonics Y_l(x) in e3nn's basis (l=1 is x, y, z), for each l in turn.

    `x` is (..., 3), the result (..., sum of 2l+1); degrees go up to 12, in any order, repeats and gaps allowed.
    With `normalize` x is divided by its length first: a zero vector then has Y_l = 0 for l >= 1 and zero derivatives.
    Without it Y_l are the homogeneous polynomials, |Y_l(x)| ~ |x|^l. `normalization` is that of the output on the unit
    sphere: "component" |Y_l|^2 = 2l+1, "norm" |Y_l| = 1, "integral" orthonormal functions.
    Half types are computed in float32; under autocast the result is float32.
    NaN in x gives NaN, but for l = 0, which is constant. Derivatives of any order up to three.
    Raises ProgramError for a degree or normalization that is not known, ShapeError for x without 3 columns.

    >>> spherical_harmonics([0, 1], torch.tensor([[0.0, 2.0, 0.0]]), True, "norm")
    tensor([[1., 0., 1., 0.]])
    """
    degrees = (l,) if isinstance(l, int) else tuple(l)
    spec = _constant_text(degrees, normalization, bool(normalize))
    if x.dim() == 0 or x.shape[-1] != 3:
        raise ShapeError(
            f"spherical_harmonics: x has shape {tuple(x.shape)}; it reads vectors, (..., 3). Transpose or slice x."
        )
    if not x.is_floating_point():
        raise ShapeError(f"spherical_harmonics: x is {x.dtype}; give floating-point vectors, x.to(torch.float32).")
    x = wide(x) if autocasts(x) else x
    name = backend or backends.select_harmonics(x.device.type, x.dtype, max(degrees, default=0))
    vectors = x if x.dim() == 2 else x.reshape(-1, 3)
    out = _harmonics_op(spec, name, vectors)
    return out if x.dim() == 2 else out.reshape(*x.shape[:-1], out.shape[1])
