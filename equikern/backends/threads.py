"""How many threads a native kernel may use."""

from __future__ import annotations

import os

import torch

_PID = os.getpid()


def threads() -> int:
    """`torch.get_num_threads()`; 1 in a forked child, where an OpenMP region would hang (torch's own does)."""
    return torch.get_num_threads() if os.getpid() == _PID else 1
