"""equikern: fast, trusted equivariant kernels for PyTorch.

Importing it is inert: no compiler, CUDA or Triton call. Submodules and names load on first use.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_NAMES = {
    "accelerate": "equikern.interop",
    "restore": "equikern.interop",
    "backend": "equikern.backends",
    "set_backend": "equikern.backends",
    "explain": "equikern.interop",
    "EquikernError": "equikern.errors",
    "ProgramError": "equikern.errors",
    "ShapeError": "equikern.errors",
    "BackendError": "equikern.errors",
}
_MODULES = ("backends", "errors", "graph", "interop", "models", "nn", "o3", "ops", "program", "testing")

__all__ = [*_NAMES, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"equikern.{name}")
    raise AttributeError(f"module 'equikern' has no attribute {name!r}")
