"""Backends evaluate programs. This module chooses one for a call and says why.

A backend is a module with `name`, `supports(program, device, dtype) -> None or the reason why not`, and
`contract(program, operands, index, rows, open)`. A method of another op's name speeds up that op.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType

import torch

from equikern.backends import (
    cpu,
    cpu_gate,
    cpu_harmonics,
    cpu_painn,
    cpu_spline,
    cpu_symmetric,
    cuda,
    matmul,
    reference,
    reference_gate,
    reference_harmonics,
    reference_symmetric,
    triton,
)
from equikern.backends.constant import constant
from equikern.backends.cuda import harmonics as cuda_harmonics
from equikern.backends.cuda import spline as cuda_spline
from equikern.backends.cuda import symmetric as cuda_symmetric
from equikern.backends.triton import harmonics as triton_harmonics
from equikern.backends.triton import radial as triton_radial
from equikern.backends.triton import spline as triton_spline
from equikern.errors import BackendError
from equikern.program import parse

# Faster ones first, on one device: CUDA C++ is ahead of Triton in every sweep, and compiles in a tenth of the time.
ORDER: tuple[ModuleType, ...] = (cpu, cuda, triton, matmul, reference)
NAMES = tuple(backend.name for backend in ORDER)
harmonics = {
    "cpu": cpu_harmonics,
    "triton": triton_harmonics,
    "cuda": cuda_harmonics,
    "reference": reference_harmonics,
}
NO_KERNEL = {"cuda": "it has no kernel for it", "triton": "it has no kernel for it", "reference": None}
gates = {"cpu": cpu_gate, "reference": reference_gate}
splines = {"cpu": cpu_spline, "cuda": cuda_spline, "triton": triton_spline}
symmetric = {"cpu": cpu_symmetric, "cuda": cuda_symmetric, "reference": reference_symmetric}


def _checked(name: str, source: str) -> str:
    if name not in ("auto", *NAMES):
        raise BackendError(f"{source} names the unknown backend {name!r}; use one of: auto, {', '.join(NAMES)}.")
    return name


_setting = _checked(os.environ.get("EQUIKERN_BACKEND", "auto"), "EQUIKERN_BACKEND")


def set_backend(name: str) -> None:
    """Use a backend for all later calls: a name, or "auto" for the first that supports the call."""
    global _setting
    _setting = _checked(name, "set_backend")


def setting() -> str:
    """The name in force: "auto" or a backend's."""
    return _setting


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Use a backend inside a `with` block."""
    before = _setting
    set_backend(name)
    try:
        yield
    finally:
        set_backend(before)


def select(program: str, device: str, dtype: torch.dtype) -> str:
    """The name of the backend that runs a program's text; raises if the one asked for cannot."""
    return _constant_select(_setting, program, device, dtype)


@constant
def _constant_select(setting: str, program: str, device: str, dtype: torch.dtype) -> str:
    return _select(setting, program, device, dtype)


@cache
def _select(setting: str, program: str, device: str, dtype: torch.dtype) -> str:
    return _choose(setting, f"the program {program}", reasons(program, device, dtype))


def why_not(program: str, device: str, dtype: torch.dtype) -> str | None:
    """None if a kernel runs a program's text here, or the reference was asked for by name; else the reasons."""
    return _constant_why_not(_setting, program, device, dtype)


@constant
def _constant_why_not(setting: str, program: str, device: str, dtype: torch.dtype) -> str | None:
    return _why_not(setting, program, device, dtype)


@cache
def _why_not(setting: str, program: str, device: str, dtype: torch.dtype) -> str | None:
    # On the CPU matmul is plain torch code, as a module's own is.
    plain = (reference.name, matmul.name) if device == "cpu" else (reference.name,)
    return judge(setting, reasons(program, device, dtype), plain)


def judge(setting: str, answers: dict[str, str | None], plain: tuple[str, ...] = ("reference",)) -> str | None:
    """None if a kernel of the answers', not one of `plain`, or the backend in force does the work; else why not."""
    if setting != "auto":
        why = answers.get(setting, NO_KERNEL["cuda"])
        return None if why is None else f"backend {setting}: {why}"
    kernels = {name: why for name, why in answers.items() if name not in plain}
    if None in kernels.values():
        return None
    return "no kernel: " + "; ".join(f"{name}: {why}" for name, why in kernels.items())


def select_harmonics(device: str, dtype: torch.dtype, lmax: int = 0) -> str:
    """The name of the backend that runs spherical harmonics up to a degree; raises if the one asked for cannot."""
    return _constant_select_harmonics(_setting, device, dtype, lmax)


@constant
def _constant_select_harmonics(setting: str, device: str, dtype: torch.dtype, lmax: int) -> str:
    return _choose(setting, "spherical harmonics", {n: b.supports(device, dtype, lmax) for n, b in harmonics.items()})


def select_spline(device: str, dtype: torch.dtype) -> str:
    """The name of the backend that evaluates a spline; raises if the one asked for cannot."""
    return _constant_select_spline(_setting, device, dtype)


@constant
def _constant_select_spline(setting: str, device: str, dtype: torch.dtype) -> str:
    kernels = {name: backend.supports(device, dtype) for name, backend in splines.items()}
    return _choose(setting, "a spline", kernels | {"reference": None})


def select_painn(device: str, dtype: torch.dtype) -> str:
    """The name of the backend that runs PaiNN as one op; raises if the one asked for cannot."""
    return _constant_select_painn(_setting, device, dtype)


@constant
def _constant_select_painn(setting: str, device: str, dtype: torch.dtype) -> str:
    return _choose(setting, "PaiNN", {"cpu": cpu_painn.supports(device, dtype), **NO_KERNEL})


def select_symmetric(device: str, dtype: torch.dtype) -> str:
    """The name of the backend that evaluates a symmetric contraction; raises if the one asked for cannot."""
    return _constant_select_symmetric(_setting, device, dtype)


@constant
def _constant_select_symmetric(setting: str, device: str, dtype: torch.dtype) -> str:
    return _choose(setting, "a symmetric contraction", symmetric_reasons(device, dtype))


def symmetric_reasons(device: str, dtype: torch.dtype) -> dict[str, str | None]:
    """For each backend: None if it evaluates symmetric contractions, else the reason why not."""
    kernels = {name: symmetric[name].supports(device, dtype) for name in ("cpu", "cuda")}
    return kernels | {name: why for name, why in NO_KERNEL.items() if name not in kernels}


def select_radial(device: str, dtype: torch.dtype) -> str:
    """The name of the backend that runs a radial embedding: one with a kernel for it, else torch's functions."""
    return _constant_select_only(_setting, "radial", device, dtype)


def select_gate(device: str, dtype: torch.dtype) -> str:
    """The name of the backend that runs a gate: the CPU's kernels, else torch's functions."""
    return _constant_select_only(_setting, "gate", device, dtype)


_ONLY = {"radial": ("triton", triton_radial), "gate": ("cpu", cpu_gate)}


@constant
def _constant_select_only(setting: str, op: str, device: str, dtype: torch.dtype) -> str:
    name, kernels = _ONLY[op]
    return name if setting in ("auto", name) and kernels.supports(device, dtype) is None else "reference"


def _choose(setting: str, what: str, answers: dict[str, str | None]) -> str:
    """The first backend that supports it, or the one asked for; raises with the reasons why not."""
    if setting == "auto":
        for name, reason in answers.items():
            if reason is None:
                return name
        raise BackendError(f"no backend runs {what}: " + "; ".join(f"{n}: {r}" for n, r in answers.items()))
    if (reason := answers.get(setting, "it has no kernel for it")) is not None:
        raise BackendError(
            f"backend {setting!r} was asked for and cannot run this: {reason}.\n  what      {what}\n"
            "  hint      use backend 'auto' or 'reference'."
        )
    return setting


def reasons(program: str, device: str, dtype: torch.dtype) -> dict[str, str | None]:
    """For each backend in order: None if it runs the program, else the reason why not."""
    parsed = parse(program)
    return {b.name: b.supports(parsed, device, dtype) for b in ORDER}


def get(name: str) -> ModuleType:
    """The backend of a name."""
    return ORDER[NAMES.index(name)]
