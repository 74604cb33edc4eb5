"""Functions of constants that torch.compile evaluates instead of tracing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Function = TypeVar("Function", bound=Callable[..., object])


def constant(function: Function) -> Function:
    """`torch.compiler.assume_constant_result`, without importing the compiler (0.8 s) to set its mark."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function
