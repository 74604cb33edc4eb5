"""Options of the benches, and what every figure must name: threads, CPU target, measured peak and bandwidth."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from equikern.backends import cpu


def pytest_addoption(parser: Any) -> None:
    group = parser.getgroup("equikern")
    group.addoption("--threads", type=int, default=1, help="threads of all rivals (default 1)")
    group.addoption("--edges", default="1000,10000,30000", help="numbers of edges, comma-separated")
    group.addoption("--no-compiled", action="store_true", help="leave the compiled rewrite out (it takes minutes)")
    group.addoption("--compiled-e3nn", action="store_true", help="add e3nn under torch.compile (it takes minutes)")


def pytest_generate_tests(metafunc: Any) -> None:
    if "edges" in metafunc.fixturenames:
        metafunc.parametrize("edges", [int(n) for n in metafunc.config.getoption("--edges").split(",")])


@cache
def peak(dtype: torch.dtype) -> float:
    """Operations a second of multiply-adds on the registers of one core."""
    return cpu.fma_peak(dtype)


@cache
def bandwidth(threads: int) -> float:
    """Bytes a second of a triad."""
    return cpu.memory_bandwidth(threads)


@pytest.fixture(autouse=True)
def machine(request: Any, benchmark: Any) -> None:
    """Set the threads and record the machine with the figure."""
    threads = request.config.getoption("--threads")
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    parameters = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    dtype = parameters.get("dtype", torch.float32)
    benchmark.extra_info.update(
        threads=threads, target=cpu.target(), torch=torch.__version__, dtype=str(dtype).removeprefix("torch."),
        peak=peak(dtype) * threads, bandwidth=bandwidth(threads),
    )  # fmt: skip
