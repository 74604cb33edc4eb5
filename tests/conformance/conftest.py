"""Fixtures of the conformance suite."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from equikern import backends
from equikern.program import Program

Require = Callable[[str, Program, torch.dtype], None]


@pytest.fixture
def require() -> Require:
    """Skip, with the backend's own words, what it does not support."""

    def check(backend: str, program: Program, dtype: torch.dtype) -> None:
        reason = backends.reasons(program.text, "cpu", dtype)[backend]
        if reason is not None:
            pytest.skip(f"{backend}: {reason}")

    return check


@pytest.fixture
def threads() -> None:
    """Give the number of threads back after a test that changes it."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
