"""PaiNN on the CPU as one native call: energies, their derivatives, the gradients of both (csrc/cpu/painn.hpp)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from equikern.backends._painn import parse_painn
from equikern.backends.extension import _C, MISSING
from equikern.backends.threads import threads
from equikern.errors import BackendError, ShapeError


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None if the kernels take a model on a device and of a dtype, else the reason in words."""
    if _C is None:
        return MISSING
    if device != "cpu":
        return f"the vectors are on {device}"
    if dtype not in (torch.float32, torch.float64):
        return f"the vectors are {dtype}; the kernels have float32 and float64"
    return None


def _require(tensor: Tensor) -> None:
    reason = supports(tensor.device.type, tensor.dtype)
    if reason:
        raise BackendError(f"backend 'cpu' cannot run PaiNN: {reason}; use backend 'reference'.")


@cache
def _kernel(text: str) -> _C.Painn:
    s = parse_painn(text)
    bessel = s.basis == "bessel"
    sizes = s.layers, s.channels, s.hidden, s.num_basis, s.num_species
    return _C.Painn(*sizes, bessel, s.cutoff, s.epsilon, 1.0 if bessel else s.gaussian_width)


@cache
def packed_size(text: str, dtype: torch.dtype) -> int:
    """How many numbers the packed weights are."""
    return _kernel(text).packed_size(dtype == torch.float64)  # type: ignore[no-any-return]


@cache
def _kept(text: str, dtype: torch.dtype) -> tuple[int, int]:
    return _kernel(text).kept(dtype == torch.float64)  # type: ignore[no-any-return]


def kept_size(text: str, dtype: torch.dtype, atoms: int) -> int:
    """How many numbers `evaluate` keeps for `gradient`: of few atoms, whose products are most of the work."""
    few, each = _kept(text, dtype)
    return atoms * each if atoms <= few else 0


def pack(text: str, weights: list[Tensor]) -> Tensor:
    """The weights as the kernels read them fastest, one flat tensor: for many evaluations."""
    kernel, like = _kernel(text), weights[0]
    _require(like)
    double = like.dtype == torch.float64
    packed = like.new_empty(packed_size(text, like.dtype))
    held = [w.contiguous() for w in weights]
    (kernel.pack_double if double else kernel.pack_float)([w.data_ptr() for w in held], packed.data_ptr())
    return packed


def _run(
    text: str,
    vec: Tensor,
    graph: list[Tensor],
    weights: list[Tensor],
    kept: Tensor,
    out: list[Tensor | None],
    d_weights: list[Tensor],
) -> None:
    kernel, species = _kernel(text), graph[0]
    _require(vec)
    run = kernel.run_double if vec.dtype == torch.float64 else kernel.run_float
    held = [vec.contiguous(), *(t.contiguous() for t in graph), *(None if t is None else t.contiguous() for t in out)]
    weights = [w.contiguous() for w in weights]
    address = [0 if t is None else t.data_ptr() for t in held]
    try:
        run(
            len(out) == 4,
            species.shape[0],
            vec.shape[0],
            address[1:8],
            address[0],
            [w.data_ptr() for w in weights],
            kept.data_ptr(),
            [*address[8:], 0][:4],
            [w.data_ptr() for w in d_weights],
            threads(),
        )
    except IndexError as error:
        raise ShapeError(f"{error}\n  model     {text}") from None


def evaluate(
    text: str, vec: Tensor, graph: list[Tensor], weights: list[Tensor], keep: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Atomic energies (N,), the derivative of their sum by vec (E, 3), forces (N, 3), and what `gradient` reads.

    weights: the model's, or the packed ones alone. The last is empty unless `keep`.
    """
    atoms = graph[0].shape[0]
    found = vec.new_empty(atoms), vec.new_empty(vec.shape), vec.new_empty((atoms, 3))
    kept = vec.new_empty(kept_size(text, vec.dtype, atoms) if keep else 0)
    _run(text, vec, graph, weights, kept, [*found], [])
    return *found, kept


def gradient(
    text: str,
    vec: Tensor,
    graph: list[Tensor],
    weights: list[Tensor],
    kept: Tensor,
    cotangents: Sequence[Tensor | None],
    need_vec: bool,
    need_weights: bool,
) -> list[Tensor]:
    """Gradients of cotangents times what `evaluate` gives, by vec and by every weight: those that are wanted.

    kept: what `evaluate` kept of the same inputs, or nothing, (0,).
    """
    d_vec = vec.new_empty(vec.shape) if need_vec else None
    weights = [w.contiguous() for w in weights]
    d_weights = [torch.empty_like(w) for w in weights] if need_weights else []
    if d_weights and "centres" in parse_painn(text).weights:
        d_weights[-1].zero_()  # they are not trained
    _run(text, vec, graph, weights, kept, [*cotangents, d_vec], d_weights)
    return d_weights if d_vec is None else [d_vec, *d_weights]
