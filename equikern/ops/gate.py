"""`equikern::gate`: activations of scalars, and of gates that multiply irreps, as one op whose every derivative is one.

out = f(s) | f(g) * t: scalars s, gates g (one a channel) and gated irreps t are columns of x, mul_ir (e3nn's `Gate`).
With G(x, z) = z . out, `gate_backward` is dG/dx and `gate_double_backward` the two derivatives of h . dG/dx; those of
the last (third order) are taken by autograd through the torch reference.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from equikern import backends
from equikern.backends import reference_gate
from equikern.backends._gate import Part, gate_spec, parse_gate
from equikern.backends.reference_gate import ACTIVATIONS
from equikern.errors import BackendError, ShapeError
from equikern.ops.engine import Function, Op, in_float32, wanted

__all__ = ["ACTIVATIONS", "Part", "gate", "gate_spec"]


def _forward(spec: str, backend: str, x: Tensor) -> Tensor:
    _check(spec, x)
    return _implementation(backend).gate(spec, x)  # type: ignore[no-any-return]


def _backward(spec: str, backend: str, x: Tensor, z: Tensor) -> Tensor:
    _check(spec, x, z)
    return _implementation(backend).gate_backward(spec, x, z)  # type: ignore[no-any-return]


def _double_backward(
    spec: str, backend: str, x: Tensor, z: Tensor, h: Tensor, need_x: bool = True, need_z: bool = True
) -> tuple[Tensor, Tensor]:
    _check(spec, x, z, h)
    return _implementation(backend).gate_double_backward(spec, x, z, h, need_x, need_z)  # type: ignore[no-any-return]


def _implementation(backend: str) -> Any:
    if backend not in backends.gates:
        raise BackendError(f"backend {backend!r} has no gate; use one of {', '.join(backends.gates)}.")
    return backends.gates[backend]


def _check(spec: str, x: Tensor, z: Tensor | None = None, h: Tensor | None = None) -> None:
    layout = parse_gate(spec)
    for name, a, columns in (("x", x, layout.columns), ("z", z, layout.width), ("h", h, layout.columns)):
        if a is None:
            continue
        if a.ndim != 2 or a.shape[1] != columns or a.shape[0] != x.shape[0]:
            raise ShapeError(f"gate: operand {name!r} has shape {tuple(a.shape)}; the gate reads (N, {columns}).")
        if a.dtype != x.dtype or a.device != x.device or not a.is_floating_point():
            raise ShapeError(f"gate: operand {name!r} is {a.dtype} on {a.device}, x {x.dtype} on {x.device}.")


def _fake_forward(spec: str, backend: str, x: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], parse_gate(spec).width)


def _fake_backward(spec: str, backend: str, x: Tensor, z: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def _fake_double_backward(
    spec: str, backend: str, x: Tensor, z: Tensor, h: Tensor, need_x: bool = True, need_z: bool = True
) -> tuple[Tensor, Tensor]:
    dz = x.new_empty(x.shape[0] if need_z else 0, parse_gate(spec).width)
    return x.new_empty(x.shape[0] if need_x else 0, x.shape[1]), dz


# --- derivatives


class _Gate(Function):
    @staticmethod
    def forward(ctx: Any, spec: str, backend: str, x: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x)
        if forward_ad._current_level >= 0:
            ctx.save_for_forward(x)
        ctx.names = spec, backend
        return _gate_op.below(spec, backend, x)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, z: Tensor | None) -> tuple[Tensor | None, ...]:
        return None, None, None if z is None else _backward_op(*ctx.names, *ctx.saved_tensors, z)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        # Of a dual x that records too: saved as it is, it carries its tangent into the backward.
        (x,) = ctx.saved_tensors
        spec, backend = ctx.names
        return _change(spec, backend, x, tangents[2])


class _GateBackward(Function):
    @staticmethod
    def forward(ctx: Any, spec: str, backend: str, x: Tensor, z: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, z)
        ctx.names = spec, backend
        return _backward_op.below(spec, backend, x, z)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, h: Tensor | None) -> tuple[Tensor | None, ...]:
        slots = wanted(ctx, first=2, count=2)
        if h is None or not slots:
            return None, None, None, None
        dx, dz = _double_backward_op(*ctx.names, *ctx.saved_tensors, h, 0 in slots, 1 in slots)
        return None, None, dx if 0 in slots else None, dz if 1 in slots else None


class _GateDoubleBackward(Function):
    @staticmethod
    def forward(
        ctx: Any, spec: str, backend: str, need_x: bool, need_z: bool, x: Tensor, z: Tensor, h: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, z, h)
        ctx.spec, ctx.need = spec, (need_x, need_z)
        return _double_backward_op.below(spec, backend, x, z, h, need_x, need_z)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        slots = wanted(ctx, first=4, count=3)
        given = [n for n in range(2) if cotangents[n] is not None and ctx.need[n]]
        gradients: list[Tensor | None] = [None] * 3
        if given and slots:
            with torch.enable_grad():
                # Aliases: one input may depend on another, and only the partial derivatives are asked for.
                inputs = [a.view_as(a) for a in ctx.saved_tensors]
                for slot in slots:
                    inputs[slot].requires_grad_()
                outputs = reference_gate.gate_double_backward(ctx.spec, *inputs, *ctx.need)
            found = torch.autograd.grad(
                [outputs[n] for n in given],
                [inputs[slot] for slot in slots],
                [cotangents[n] for n in given],
                create_graph=torch.is_grad_enabled(),
                allow_unused=True,
            )
            for slot, gradient in zip(slots, found, strict=True):
                gradients[slot] = gradient
        return None, None, None, None, *gradients


def _records(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _refuse_tangents(*tensors: Tensor) -> None:
    if forward_ad._current_level >= 0 and any(forward_ad.unpack_dual(a).tangent is not None for a in tensors):
        raise BackendError("gate: forward-mode derivatives are those of its value; take reverse mode for the others.")


def _change(spec: str, backend: str, x: Tensor, along: Tensor) -> Tensor:
    """The tangent of the gate."""
    zero = x.new_zeros(x.shape[0], parse_gate(spec).width)
    return _double_backward_op(spec, backend, x, zero, along, False)[1]  # type: ignore[no-any-return]


def _autograd_forward(spec: str, backend: str, x: Tensor) -> Tensor:
    if _records(x):
        return _Gate.apply(spec, backend, x)  # type: ignore[no-any-return]
    if forward_ad._current_level >= 0 and (dual := forward_ad.unpack_dual(x)).tangent is not None:
        return forward_ad.make_dual(
            _gate_op(spec, backend, dual.primal), _change(spec, backend, dual.primal, dual.tangent)
        )
    return _gate_op.below(spec, backend, x)  # type: ignore[no-any-return]


def _autograd_backward(spec: str, backend: str, x: Tensor, z: Tensor) -> Tensor:
    _refuse_tangents(x, z)
    if _records(x, z):
        return _GateBackward.apply(spec, backend, x, z)  # type: ignore[no-any-return]
    return _backward_op.below(spec, backend, x, z)  # type: ignore[no-any-return]


def _autograd_double_backward(
    spec: str, backend: str, x: Tensor, z: Tensor, h: Tensor, need_x: bool = True, need_z: bool = True
) -> tuple[Tensor, Tensor]:
    _refuse_tangents(x, z, h)
    if _records(x, z, h):
        return _GateDoubleBackward.apply(spec, backend, need_x, need_z, x, z, h)  # type: ignore[no-any-return]
    return _double_backward_op.below(spec, backend, x, z, h, need_x, need_z)  # type: ignore[no-any-return]


_gate_op = Op("gate(str spec, str backend, Tensor x) -> Tensor", _forward, _fake_forward, _autograd_forward)
_backward_op = Op(
    "gate_backward(str spec, str backend, Tensor x, Tensor z) -> Tensor", _backward, _fake_backward, _autograd_backward
)
_double_backward_op = Op(
    "gate_double_backward(str spec, str backend, Tensor x, Tensor z, Tensor h, bool need_x=True, bool need_z=True) "
    "-> (Tensor dx, Tensor dz)",
    _double_backward,
    _fake_double_backward,
    _autograd_double_backward,
)


@in_float32
def gate(spec: str, x: Tensor) -> Tensor:
    """out (..., columns of all parts) of a gate's text (`gate_spec`) and x (..., columns); any order of derivative.

    Raises ShapeError where x does not fit.

    >>> spec = gate_spec(5, (Part(0, 1, "tanh"), Part(1, 1, "sigmoid", 2.0, gated=2, dim=3)))
    >>> gate(spec, torch.tensor([[0.0, 0.0, 1.0, 2.0, 3.0]]))
    tensor([[0., 1., 2., 3.]])
    """
    backend = backends.select_gate(x.device.type, x.dtype)
    if x.ndim == 2:
        return _gate_op(spec, backend, x)  # type: ignore[no-any-return]
    out = _gate_op(spec, backend, x.reshape(-1, x.shape[-1]))
    return out.reshape(*x.shape[:-1], out.shape[1])  # type: ignore[no-any-return]
