"""Kernels from emitted sources, and where they can run. Triton is imported here, on the first call."""

from __future__ import annotations

import linecache
import os
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


@cache
def _installed() -> bool:
    return find_spec("triton") is not None


def unavailable(device: str, dtype: torch.dtype) -> str | None:
    """Why no kernel runs on tensors of a device and dtype; None if they do."""
    if not _installed():
        return "triton is not installed"
    if device != "cuda" and not (device == "cpu" and os.environ.get("TRITON_INTERPRET", "0") == "1"):
        return f"operands are on {device}; the kernels run on cuda (on the CPU only interpreted, TRITON_INTERPRET=1)"
    if dtype not in _DTYPES:
        return f"operands are {dtype}; the kernels have float32, float64, float16 and bfloat16"
    return None


@cache
def compiled(source: str, name: str) -> Any:
    """The kernel `name` of an emitted source. Triton reads sources back, so this one is kept where inspect looks."""
    file = f"<equikern {name} {abs(hash(source)):x}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    scope: dict[str, Any] = {"__name__": f"equikern.emitted.{name}"}
    exec(compile(source, file, "exec"), scope)
    return scope[name]


class Kernel:
    """A kernel of an emitted source, compiled for the kinds of arguments that it meets.

    Triton looks at every argument at every start, which takes longer than many a kernel runs; here it is asked once for
    each kind: dtype, device, whether pointers are aligned and counts fit 32 bits.
    """

    def __init__(self, source: str, name: str, **options: Any) -> None:
        self.jit, self.options = compiled(source, name), options
        self._ready: dict[tuple[Any, ...], Any] = {}

    def __call__(self, instances: int, arguments: Sequence[Tensor | int], *constants: Any) -> None:
        """Start it; `arguments` begin with a tensor on the current device, `constants` are the last parameters."""
        like: Any = arguments[0]
        kinds = [a < 1 << 31 if isinstance(a, int) else a.data_ptr() % 16 == 0 for a in arguments]
        key = (like.dtype, like.device.index, constants, *kinds)
        ready = self._ready.get(key)
        if ready is None:
            made = self.jit[(instances,)](*arguments, *constants, **self.options)
            if made is not None:  # nothing under the interpreter
                self._ready[key] = made
        else:
            ready[(instances, 1, 1)](*arguments, *constants)


@cache
def float_type(dtype: torch.dtype) -> Any:
    """Triton's type that operands of a dtype are computed in."""
    import triton.language as tl

    return tl.float64 if dtype == torch.float64 else tl.float32
