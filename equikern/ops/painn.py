"""`equikern::painn`: a whole PaiNN as one op, atomic energies with their derivatives by the edge vectors, and forces.

A model of many small layers is bound by the calls when molecules are small; here energy and forces are one call, and
the gradient of a training loss by all weights is one more. `graph` holds species, sender, receiver, and the edges
grouped by receiver and by sender (`ops/plan.py`): ptr, order, ptr, order. Derivatives end with that gradient: the
layers of `models.PaiNN` give those of any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from equikern import backends
from equikern.backends import cpu_painn, reference_painn
from equikern.backends._painn import PaiNNConfig, parse_painn
from equikern.errors import BackendError, ShapeError
from equikern.ops.engine import LIBRARY, Function, batch, below_autograd, in_float32, plain, wanted

LIBRARY.define(
    "painn(str spec, Tensor vec, Tensor[] graph, Tensor[] weights, bool keep=False) -> (Tensor, Tensor, Tensor, Tensor)"
)
LIBRARY.define(
    "painn_backward(str spec, Tensor vec, Tensor[] graph, Tensor[] weights, Tensor kept, Tensor? d_energy, "
    "Tensor? d_g, Tensor? d_forces, bool need_vec, bool need_weights) -> Tensor[]"
)
_ops = torch.ops.equikern


def _painn(
    spec: str, vec: Tensor, graph: list[Tensor], weights: list[Tensor], keep: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _check(parse_painn(spec), vec, graph, weights)
    return cpu_painn.evaluate(spec, vec, graph, weights, keep)


def _painn_backward(
    spec: str,
    vec: Tensor,
    graph: list[Tensor],
    weights: list[Tensor],
    kept: Tensor,
    d_energy: Tensor | None,
    d_g: Tensor | None,
    d_forces: Tensor | None,
    need_vec: bool,
    need_weights: bool,
) -> list[Tensor]:
    _check(parse_painn(spec), vec, graph, weights)
    atoms = graph[0].shape[0]
    shapes = ("energy", d_energy, (atoms,)), ("g", d_g, vec.shape), ("forces", d_forces, (atoms, 3))
    for name, given, shape in shapes:
        if given is not None and (given.shape != shape or given.dtype != vec.dtype or not given.is_cpu):
            raise ShapeError(f"painn: the cotangent of {name} is {tuple(given.shape)} {given.dtype}; expected {shape}.")
    sizes = 0, cpu_painn.kept_size(spec, vec.dtype, atoms)
    if kept.ndim != 1 or kept.shape[0] not in sizes or kept.dtype is not vec.dtype or not kept.is_cpu:
        raise ShapeError(f"painn: what was kept is {tuple(kept.shape)} {kept.dtype}; it is not of these inputs.")
    return cpu_painn.gradient(
        spec, vec, graph, weights, kept.contiguous(), (d_energy, d_g, d_forces), need_vec, need_weights
    )


def _fake_painn(
    spec: str, vec: Tensor, graph: list[Tensor], weights: list[Tensor], keep: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    atoms = graph[0].shape[0]
    kept = vec.new_empty(cpu_painn.kept_size(spec, vec.dtype, atoms) if keep else 0)
    return vec.new_empty(atoms), vec.new_empty(vec.shape), vec.new_empty((atoms, 3)), kept


def _fake_backward(
    spec: str,
    vec: Tensor,
    graph: list[Tensor],
    weights: list[Tensor],
    kept: Tensor,
    d_energy: Tensor | None,
    d_g: Tensor | None,
    d_forces: Tensor | None,
    need_vec: bool,
    need_weights: bool,
) -> list[Tensor]:
    return [t.new_empty(t.shape) for t in [vec] * need_vec + weights * need_weights]


class _PaiNN(Function):
    @staticmethod
    def forward(ctx: Any, spec: str, direct: bool, split: int, vec: Tensor, *tensors: Tensor) -> Any:
        ctx.set_materialize_grads(False)
        ctx.spec, ctx.split = spec, split
        graph, weights = list(tensors[:split]), list(tensors[split:])
        if direct:
            found = _painn(spec, vec, graph, weights, keep=True)
        else:
            with below_autograd():
                found = _ops.painn(spec, vec, graph, weights, keep=True)
        ctx.mark_non_differentiable(found[3])
        ctx.save_for_backward(vec, found[3], *tensors)
        return found

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        vec, kept, *tensors = ctx.saved_tensors
        graph, weights = tensors[: ctx.split], tensors[ctx.split :]
        need_vec = bool(wanted(ctx, first=3, count=1))
        # They come together, so one that is wanted answers for all; and if vec is not wanted, one of them is. To ask
        # costs 60 us: for a leaf torch answers by an exception.
        first = 4 + ctx.split
        need_weights = not need_vec or any(wanted(ctx, first + n, count=1) for n in range(len(weights)))
        cotangents = cotangents[:3]
        given = [t for t in cotangents if t is not None]
        if not given:
            return (None,) * (4 + len(tensors))
        direct = not torch.is_grad_enabled() and plain([vec, *given], graph)
        backward: Any = _painn_backward if direct else _ops.painn_backward
        found = iter(backward(ctx.spec, vec, graph, weights, kept, *cotangents, need_vec, need_weights))
        d_vec = next(found) if need_vec else None
        return None, None, None, d_vec, *([None] * ctx.split), *(found if need_weights else [None] * len(weights))


def _autograd_painn(
    spec: str, vec: Tensor, graph: list[Tensor], weights: list[Tensor], keep: bool = False, direct: bool = False
) -> Any:
    _refuse_tangents([vec, *weights])
    if torch.is_grad_enabled() and any(t.requires_grad for t in (vec, *weights)):
        _refuse_centres(spec, weights)
        return _PaiNN.apply(spec, direct, len(graph), vec, *graph, *weights)
    if direct:
        return _painn(spec, vec, graph, weights, keep)
    with torch._C._AutoDispatchBelowAutograd():
        return _ops.painn(spec, vec, graph, weights, keep)


def _autograd_backward(
    spec: str,
    vec: Tensor,
    graph: list[Tensor],
    weights: list[Tensor],
    kept: Tensor,
    d_energy: Tensor | None,
    d_g: Tensor | None,
    d_forces: Tensor | None,
    need_vec: bool,
    need_weights: bool,
) -> Any:
    given = [t for t in (vec, *weights, d_energy, d_g, d_forces) if t is not None]
    _refuse_tangents(given)
    if torch.is_grad_enabled() and any(t.requires_grad for t in given):
        raise BackendError(
            "painn: its gradient has no derivative of its own (create_graph=True); the layers of the model have: "
            "call the model itself."
        )
    with torch._C._AutoDispatchBelowAutograd():
        return _ops.painn_backward(spec, vec, graph, weights, kept, d_energy, d_g, d_forces, need_vec, need_weights)


def _refuse_centres(spec: str, weights: list[Tensor]) -> None:
    if "centres" in parse_painn(spec).weights and weights[-1].requires_grad:
        raise BackendError(
            "painn: the centres of the Gaussians are not trained; the layers of the model can train them."
        )


def _refuse_tangents(tensors: Sequence[Tensor]) -> None:
    if forward_ad._current_level >= 0 and any(forward_ad.unpack_dual(t).tangent is not None for t in tensors):
        raise BackendError("painn has no forward-mode derivative; call the model itself, layer by layer.")


for _name, _kernel, _fake, _autograd in (
    ("painn", _painn, _fake_painn, _autograd_painn),
    ("painn_backward", _painn_backward, _fake_backward, _autograd_backward),
):
    LIBRARY.impl(_name, _kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"equikern::{_name}", _fake, lib=LIBRARY)
    LIBRARY.impl(_name, _autograd, "Autograd")
    batch(getattr(_ops, _name).default)


def _check(spec: PaiNNConfig, vec: Tensor, graph: Sequence[Tensor], weights: Sequence[Tensor]) -> None:
    """Raise ShapeError unless native code may read the tensors."""
    _check_weights(spec, vec, weights)
    _check_graph(vec, graph)


def _check_weights(spec: PaiNNConfig, like: Tensor, weights: Sequence[Tensor]) -> None:
    names, dtype, device = spec.weights, like.dtype, like.device
    if len(weights) != len(names):
        raise ShapeError(f"painn: got {len(weights)} weights; the model has {len(names)}.")
    for w, (name, shape) in zip(weights, names.items(), strict=True):
        if w.shape != shape or w.dtype is not dtype or w.device != device:
            raise ShapeError(
                f"painn: {name} is {tuple(w.shape)} {w.dtype} on {w.device}; it must be {shape} {dtype} on "
                f"{device}, as the edge vectors are."
            )


def _check_packed(spec: str, vec: Tensor, packed: Tensor) -> None:
    if packed.dtype is not vec.dtype:
        raise ShapeError(f"painn: the weights are {packed.dtype}, the edge vectors {vec.dtype}; use one dtype.")
    if packed.shape != (cpu_painn.packed_size(spec, vec.dtype),) or not packed.is_cpu:
        raise ShapeError(f"painn: packed weights {tuple(packed.shape)} on {packed.device} are not those of {spec}.")


def _check_graph(vec: Tensor, graph: Sequence[Tensor]) -> None:
    if len(graph) != 7:
        raise ShapeError(f"painn: got {len(graph)} arrays of a graph; species, the ends and two plans are 7.")
    atoms, edges = graph[0].numel(), graph[1].numel()
    for t, size in zip(graph, (atoms, edges, edges, atoms + 1, edges, atoms + 1, edges), strict=True):
        if t.shape != (size,) or t.dtype is not torch.int64 or t.device != vec.device:
            raise ShapeError(
                f"painn: an array of the graph is {tuple(t.shape)} {t.dtype} on {t.device}; expected ({size},) int64 "
                f"on {vec.device}. Make a Graph of the edges."
            )
    if vec.shape != (edges, 3):
        raise ShapeError(f"painn: the edge vectors are {tuple(vec.shape)}; the graph reads ({edges}, 3).")


@in_float32
def painn(
    config: PaiNNConfig, vec: Tensor, graph: Sequence[Tensor], weights: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Atomic energies e (N,) and d(sum e)/d(vec), (E, 3), of edge vectors (E, 3); both differentiable once.

    graph: species (N,), sender, receiver (E,), and the plans by receiver and by sender, int64 (see above). weights:
    in the order of `config.weights`. Raises ShapeError for tensors that do not fit, BackendError for derivatives of
    second order.
    """
    return _evaluate(config, vec, list(graph), list(weights))[:2]


@in_float32
def painn_forces(
    config: PaiNNConfig, vec: Tensor, graph: Sequence[Tensor], weights: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """As `painn`, but with the forces (N, 3) on atoms, where vec is position[sender] - position[receiver]."""
    energy, _, forces = _evaluate(config, vec, list(graph), list(weights))
    return energy, forces


def _evaluate(config: PaiNNConfig, vec: Tensor, graph: list[Tensor], weights: list[Tensor]) -> Any:
    if backends.select_painn(vec.device.type, vec.dtype) == "cpu":
        if plain((vec, *weights), graph):  # past the dispatcher, which would convert all lists twice
            return _autograd_painn(config.text, vec, graph, weights, direct=True)[:3]
        return _ops.painn(config.text, vec, graph, weights)[:3]
    _check(config, vec, graph, weights)
    records = torch.is_grad_enabled() and any(t.requires_grad for t in (vec, *weights))
    with torch.enable_grad():
        inner = vec.view_as(vec) if vec.requires_grad else vec.detach().requires_grad_()
        energy = reference_painn.energies(config, inner, graph, weights)
        (g,) = torch.autograd.grad(energy.sum(), inner, create_graph=records)
    forces = g.new_zeros(graph[0].shape[0], 3).index_add(0, graph[2], g).index_add(0, graph[1], g, alpha=-1)
    return (energy if records else energy.detach()), g, forces


def packs(vec: Tensor) -> bool:
    """Whether a model of such edge vectors runs on packed weights."""
    return backends.select_painn(vec.device.type, vec.dtype) == "cpu"


def pack(config: PaiNNConfig, weights: Sequence[Tensor]) -> Tensor:
    """The weights as the kernels read them: for many evaluations with the same weights."""
    _check_weights(config, weights[0], weights)
    return cpu_painn.pack(config.text, list(weights))


def evaluate_packed(config: PaiNNConfig, vec: Tensor, graph: Sequence[Tensor], packed: Tensor) -> tuple[Tensor, Tensor]:
    """`painn` without derivatives, of packed weights."""
    _check_graph(vec, graph)
    _check_packed(config.text, vec, packed)
    return cpu_painn.evaluate(config.text, vec, list(graph), [packed])[:2]
