"""How many threads a kernel may use."""

from __future__ import annotations

import os

import torch

_PID = os.getpid()


def threads() -> int:
    """torch's thread count, but 1 in a forked child: a parallel region hangs there.

    >>> threads() >= 1
    True
    """
    return torch.get_num_threads() if os.getpid() == _PID else 1
