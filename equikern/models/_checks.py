"""What the models' configurations check."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any

from equikern.errors import EquikernError


def check_sizes(config: Any, integers: Sequence[str], positive: Sequence[str] = ("cutoff",)) -> None:
    """Raise EquikernError unless the fields are integers >= 1, and finite numbers above 0."""
    name = type(config).__name__
    for field in integers:
        value = getattr(config, field)
        if not isinstance(value, int) or value < 1:
            raise EquikernError(f"{name}: {field} is an integer >= 1; got {value!r}.")
    for field in positive:
        value = getattr(config, field)
        if not (isinstance(value, (int, float)) and isfinite(value) and value > 0):
            raise EquikernError(f"{name}: {field} is finite and above 0; got {value!r}.")
