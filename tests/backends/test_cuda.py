"""The CUDA backend without a GPU: numbers from the same sources on the host, resources from the compiler."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from equikern import backends
from equikern.backends import cuda
from equikern.backends.cuda import driver
from equikern.testing import assert_close, derivatives, get, inputs, reference, tolerance

_spec = importlib.util.spec_from_file_location("host_cuda", Path(__file__).with_name("host_cuda.py"))
host_cuda = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(host_cuda)

CASES = [
    "mul-1", "mul-33", "ir-mul", "mixed-weights", "shared-mixed", "rows-edge", "rows-edge-shared",
    "rows-sender-to-edge", "rows-edge-to-receiver", "unread-segments", "isolated-nodes", "no-edges",
]  # fmt: skip
needs_compiler = pytest.mark.skipif(host_cuda.COMPILER is None, reason="there is no C++ compiler; set CXX")


@pytest.fixture
def on_host(monkeypatch):
    """CUDA kernels take CPU tensors."""
    monkeypatch.setattr(driver, "start", host_cuda.start)
    monkeypatch.setattr(cuda, "unavailable", lambda device, dtype: None)
    backends._select.cache_clear()
    yield
    backends._select.cache_clear()


def check(case, dtype, order):
    got = derivatives(case.program, inputs(case, dtype), "cuda", order)
    assert_close(got, reference(case, dtype, order), tolerance(case.program, dtype, order, case.longest_sum), str(case))


@needs_compiler
@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("id", CASES)
def test_orders_are_those_of_the_reference(on_host, id, order):
    check(get(id), torch.float64, order)
