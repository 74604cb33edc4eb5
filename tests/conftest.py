"""What every test stands on: seeds, and NaN in memory that nobody wrote. Warnings are errors (pyproject.toml)."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

# The same examples on every run; HYPOTHESIS_PROFILE=explore looks for new ones.
hypothesis.settings.register_profile("suite", derandomize=True, deadline=None, database=None)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=1000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))


def _fill_unwritten_memory() -> None:
    """`torch.empty` and its kin give NaN, or the largest integer. In torch this comes with deterministic algorithms."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True


def pytest_configure() -> None:
    """Fixtures of a module run before those of a test."""
    _fill_unwritten_memory()


@pytest.fixture(autouse=True)
def _same_start_for_every_test() -> Iterator[None]:
    """The same seeds and the same settings of torch, whatever ran before."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    _fill_unwritten_memory()
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    yield
    changed = torch.get_default_dtype() != dtype
    torch.set_default_dtype(dtype)
    torch.set_num_threads(threads)
    assert not changed, "the test changed torch's default dtype and left it so"


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of data sets that EQUIKERN_DATA names; without it the test is skipped."""
    name = os.environ.get("EQUIKERN_DATA", "")
    if not name:
        pytest.skip("EQUIKERN_DATA is not set; it names the folder of data sets that this test reads")
    path = Path(name)
    if not path.is_dir():
        pytest.fail(f"EQUIKERN_DATA={name} is not a folder")
    return path
