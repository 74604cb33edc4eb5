"""What every op shares: the library object and what the autograd engine really asks for."""

from __future__ import annotations

from typing import Any

import torch

# Kept alive for the life of the process: the registrations die with it.
LIBRARY = torch.library.Library("equikern", "FRAGMENT")


def wanted(ctx: Any, first: int, count: int) -> list[int]:
    """Which of the tensor inputs `first ... first+count-1` of a Function need a gradient in this very backward pass.

    `ctx.needs_input_grad` is true for parameters even in `torch.autograd.grad(energy, positions)`: the engine knows.
    The Function's tensor inputs must be its last arguments, so that `next_functions` starts at `first`.
    """
    needed = ctx.needs_input_grad[first : first + count]
    return [n for n in range(count) if needed[n] and _executes(ctx.next_functions[n][0])]


def _executes(node: Any) -> bool:
    try:
        return bool(torch._C._will_engine_execute_node(node))
    except RuntimeError:
        # The engine refuses to answer for a leaf whose gradient is captured: it was asked for.
        return True
