"""The compiled extension, or why it is not there: the backends that need it say so instead of failing at import."""

from __future__ import annotations

import importlib
from typing import Any

import torch  # noqa: F401  (first: its OpenMP runtime is the one that is then shared)

from equikern.errors import BackendError

MISSING = ""
_C: Any = None
try:
    _C = importlib.import_module("equikern._C")
except ImportError as error:
    MISSING = f"the extension equikern._C cannot be loaded ({error}); build it with 'make build'"
else:
    try:
        _C.cpu_target()  # EQUIKERN_CPU_TARGET may name a target that is unknown, or that this machine cannot run
    except RuntimeError as error:
        raise BackendError(str(error)) from None
