"""Options of the benches, and what every figure must name: threads, CPU target, the measured FMA peak."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from equikern.backends import cpu


def pytest_addoption(parser: Any) -> None:
    group = parser.getgroup("equikern")
    group.addoption("--threads", type=int, default=1, help="threads of all rivals (default 1)")
    group.addoption("--edges", default="1000,10000", help="numbers of edges, comma-separated (default 1000,10000)")
    group.addoption("--no-compiled", action="store_true", help="leave the torch.compile rival out (it takes minutes)")


def pytest_generate_tests(metafunc: Any) -> None:
    if "edges" in metafunc.fixturenames:
        metafunc.parametrize("edges", [int(n) for n in metafunc.config.getoption("--edges").split(",")])


@pytest.fixture(autouse=True)
def machine(request: Any, benchmark: Any) -> None:
    """Set the threads and record the machine with the figure."""
    torch.set_num_threads(request.config.getoption("--threads"))
    torch.manual_seed(0)
    benchmark.extra_info.update(
        threads=torch.get_num_threads(), target=cpu.target(), torch=torch.__version__, dtype="float32",
        peak=cpu.fma_peak(torch.float32) * torch.get_num_threads(),
    )  # fmt: skip
