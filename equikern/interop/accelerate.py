"""`accelerate` a model in place, `restore` it, and `report` what is replaced and why the rest is not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from torch import nn

from equikern.errors import BackendError, EquikernError
from equikern.interop import e3nn, e3nn_nodes, mace, nequip, sevennet
from equikern.interop.swap import Swap, device_and_dtype, install, installed, remove

Model = TypeVar("Model", bound=nn.Module)
TABLES = ("evaluation", "always", "never")


class Entry(NamedTuple):
    """A part of a model that equikern knows: where, what, whether it is replaced; else what keeps it."""

    path: str
    kind: str
    replaced: bool
    reason: str


@dataclass(frozen=True)
class Report:
    """What is replaced in a model; prints as a table."""

    entries: tuple[Entry, ...]

    @property
    def replaced(self) -> tuple[Entry, ...]:
        """The entries that run on equikern."""
        return tuple(entry for entry in self.entries if entry.replaced)

    @property
    def left(self) -> tuple[Entry, ...]:
        """The entries that do not."""
        return tuple(entry for entry in self.entries if not entry.replaced)

    def __str__(self) -> str:
        if not self.entries:
            return "no tensor product, spherical harmonics or convolution of a kind that equikern knows"
        rows = [(e.path or "(model)", e.kind, "replaced" if e.replaced else f"left: {e.reason}") for e in self.entries]
        widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
        return "\n".join(f"{path:{widths[0]}}  {kind:{widths[1]}}  {state}" for path, kind, state in rows)


def accelerate(model: Model, *, tables: str = "evaluation") -> Model:
    """Run a model's e3nn products, linear maps and harmonics, and its NequIP, SevenNet and MACE blocks, on equikern.

    tables: when weights that depend on the edge length alone come from a `nn.RadialTable` instead of their network, in
    float32: in "evaluation" (`model.eval()`) on the CPU, unless the backend is `reference`, "always" (training, CUDA
    devices and the reference too: exact to 1e-7, gradients of all parameters included) or "never". On a device, where
    nothing waits, edges shorter than a tenth of the cutoff then give NaN.

    Returns the model. Its numbers, parameters, state dict and classes stay; `restore` undoes it; a second call does
    nothing new. A part without a kernel for the model's device and dtype is left, as is one whose coefficients are not
    e3nn's: `equikern.interop.report(model)` says why. Accelerate before `torch.compile`; `torch.jit`, script and trace,
    cannot read an accelerated model.

    Raises BackendError for a scripted or compiled model and EquikernError for what is no `torch.nn.Module`.
    """
    _refuse(model)
    if tables not in TABLES:
        raise EquikernError(f"tables is one of {', '.join(map(repr, TABLES))}; got {tables!r}.")
    for _, _, module, made in _parts(model):
        if not isinstance(made, Swap):
            continue
        made.tables = tables
        if installed(module) is None:
            install(made)
    return model


def restore(model: Model) -> Model:
    """Undo `accelerate`: every module computes as its class does. Returns the model."""
    _refuse(model)
    for module in model.modules():
        remove(module)
    return model


def report(model: nn.Module) -> Report:
    """Which parts of a model equikern knows, which are replaced, and what keeps the others."""
    _refuse(model)
    entries = []
    for path, kind, module, made in _parts(model):
        done = installed(module) is not None
        reason = "" if done else made if isinstance(made, str) else "equikern.accelerate was not called"
        entries.append(Entry(path, kind, done, reason))
    return Report(tuple(entries))


def _refuse(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise EquikernError(
            f"accelerate takes a torch.nn.Module; got {type(model).__name__}. "
            "For a calculator pass the model that it holds."
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise BackendError(
            "the model is scripted (TorchScript): its code cannot be replaced. Accelerate the eager model."
        )
    if _is_compiled(model):
        raise BackendError("the model is compiled already: call accelerate on the eager model, then torch.compile.")


def _is_compiled(module: nn.Module) -> bool:
    return isinstance(module, torch._dynamo.OptimizedModule) or module._compiled_call_impl is not None


def _parts(model: nn.Module) -> Iterator[tuple[str, str, nn.Module, Swap | str]]:
    """(path, kind, module, its stand-in or the reason why it stays) of every part that equikern knows."""
    seen: set[int] = set()

    def walk(path: str, module: nn.Module) -> Iterator[tuple[str, str, nn.Module, Swap | str]]:
        if id(module) in seen:
            return
        seen.add(id(module))
        if _is_compiled(module):
            yield path, type(module).__name__, module, "it is compiled already; accelerate before torch.compile"
            return
        if isinstance(module, torch.jit.ScriptModule):
            return
        made = _stand_in(module, model)
        if made is not None:
            yield path, type(module).__name__, module, made
        if isinstance(made, Swap):
            seen.update(map(id, made.covers()))
        elif e3nn.is_product(module):
            return
        for name, child in module.named_children():
            yield from walk(f"{path}.{name}" if path else name, child)

    yield from walk("", model)


def _stand_in(module: nn.Module, model: nn.Module) -> Swap | str | None:
    existing = installed(module)
    if existing is not None:
        return existing
    if sevennet.is_convolution(module):
        made = sevennet.convolution_swap(module, model)
    elif nequip.is_interaction(module):
        made = nequip.interaction_swap(module, model)
    elif mace.is_interaction(module):
        made = mace.interaction_swap(module, model)
    elif mace.is_embedding(module):
        made = mace.embedding_swap(module)
    elif mace.is_contraction(module):
        made = mace.contraction_swap(module)
    elif e3nn.is_product(module):
        made = e3nn.product_swap(module)
    elif e3nn.is_harmonics(module):
        made = e3nn.harmonics_swap(module)
    elif e3nn_nodes.is_linear(module):
        made = e3nn_nodes.linear_swap(module)
    elif e3nn_nodes.is_gate(module):
        made = e3nn_nodes.gate_swap(module)
    else:
        return None
    if isinstance(made, str):
        return made
    why = made.why_not(*device_and_dtype(module, model))
    if why is None and not made.agrees():
        return "a check on random input found other numbers than e3nn's"
    return why or made
