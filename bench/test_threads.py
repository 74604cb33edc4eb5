"""Threads and sizes: the convolution of MACE on two threads against one, beside what torch.mm gains in the same run.

Further columns: how many times faster torch.mm is on two threads, and what part of that ours gains; with torch's
arithmetic on the sums between the passes, and without it, as torch gains less from it. `--edges` does not apply: 72
edges are those of ethanol, a million ask for 6 and 13 GB and are left out where there is less.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import baselines
import pytest
import torch
from conftest import bandwidth
from test_convolution import arguments, flops, traffic
from timing import alternate, seconds

from equikern.nn import Convolution

THREADS = 2
ALONE = "forward+backward, no loss"
STEPS = {"forward": baselines.forward, "forward+backward": baselines.forward_backward, ALONE: None}


def on(threads: int, step: Callable[[], Any]) -> Callable[[], Any]:
    """A step on a number of threads."""

    def call() -> Any:
        torch.set_num_threads(threads)
        return step()

    return call


def gain(step: Callable[[], Any], rounds: int = 15) -> float:
    """How many times faster a step is on all threads than on one, best of alternating runs."""
    times: dict[int, list[float]] = {1: [], THREADS: []}
    for _ in range(rounds):
        for threads, found in times.items():
            on(threads, step)()
            found.append(seconds(on(threads, step)))
    return min(times[1]) / min(times[THREADS])


@pytest.mark.parametrize("count", [72, 1000, 10000, 30000])
@pytest.mark.parametrize("step", STEPS)
def test_threads(benchmark: Any, count: int, step: str) -> None:
    a, conv = arguments("mace", count), Convolution(*baselines.case("mace"))
    cotangent = torch.randn(a[0].shape[0], conv.irreps_out.dim)
    run = STEPS[step] or (lambda conv, a: forward_and_backward(conv, a, cotangent))
    counted = step.removesuffix(", no loss")
    left, right = torch.randn(2, 1024, 1024)
    theirs = gain(lambda: torch.mm(left, right))
    peak = benchmark.extra_info["peak"] / benchmark.extra_info["threads"] * THREADS
    benchmark.group = f"threads {count} {step}"
    benchmark.extra_info.update(
        case="mace-conv", edges=count, step=step, threads=THREADS, peak=peak, bandwidth=bandwidth(THREADS),
        flops=flops(conv.program, counted, count), bytes=traffic(conv.program, counted, count),
    )  # fmt: skip
    alternate(benchmark, on(THREADS, lambda: run(conv, a)), {"one thread": on(1, lambda: run(conv, a))}, rounds=9)
    ours = min(benchmark.extra_info["rivals"]["one thread"]) / benchmark.stats.stats.min
    benchmark.extra_info["extra"] = {"torch.mm gains": theirs, "ours of that": ours / theirs}


def free() -> int:
    """Bytes of memory that programs can have."""
    with open("/proc/meminfo") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def forward_and_backward(conv: Any, a: Any, cotangent: Any) -> Any:
    """No arithmetic but the convolution's: of a million edges, torch's on the sums takes as long again."""
    *tensors, index = a
    inputs = [t.detach().requires_grad_() for t in tensors]
    return torch.autograd.grad(conv(*inputs, index), inputs, cotangent)


@pytest.mark.parametrize("step", ["forward", "forward+backward"])
@pytest.mark.parametrize("count", [1000, 30000, 1000000])
def test_sizes(benchmark: Any, count: int, step: str) -> None:
    need = count * (6000 if step == "forward" else 12500)
    if need > free():
        pytest.skip(f"{count} edges need {need / 1e9:.0f} GB, {free() / 1e9:.0f} GB are free")
    a, conv = arguments("mace", count), Convolution(*baselines.case("mace"))
    cotangent = torch.randn(a[0].shape[0], conv.irreps_out.dim)
    steps = {
        "forward": lambda: baselines.forward(conv, a),
        "forward+backward": lambda: forward_and_backward(conv, a, cotangent),
    }
    benchmark.group = f"sizes {count} {step}"
    benchmark.extra_info.update(
        case="mace-conv, sizes", edges=count, step=step, flops=flops(conv.program, step, count),
        bytes=traffic(conv.program, step, count), rivals={},
    )  # fmt: skip

    def run() -> None:
        steps[step]()  # the result is let go: two of a million edges would be 10 GB

    benchmark.pedantic(run, rounds=25 if count <= 1000 else 9 if count < 10**6 else 7, warmup_rounds=1)
