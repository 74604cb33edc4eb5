"""Convolutions against e3nn and the channel-last rewrite: forward, forward+backward, force training.

The CSR plan, the checks and the layout conversion are inside the timed call. A case is timed only after its result and
gradients agree with a float64 reference.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import baselines
import pytest
import torch
from rivals import cuequivariance
from timing import alternate

import equikern
from equikern.nn import Convolution

STEPS = {
    "forward": baselines.forward,
    "forward+backward": baselines.forward_backward,
    "force training": baselines.force_training,
}
FORWARD, INPUTS, ALL = [3], [0, 1, 2], [0, 1, 2, 3]


def arguments(name: str, edges: int, dtype: torch.dtype = torch.float32) -> Any:
    """The workload of baselines.py: degree 30, random senders."""
    ix, iy, _, _ = spec = baselines.case(name)
    nodes = max(edges // 30, 1)
    receivers = torch.arange(nodes).repeat_interleave(edges // nodes + 1)[:edges]
    index = torch.stack([torch.randint(0, nodes, (edges,)), receivers])
    weights = Convolution(*spec).weight_numel
    tensors = [torch.randn(nodes, ix.dim), torch.randn(edges, iy.dim), torch.randn(edges, weights)]
    return (*(t.to(dtype) for t in tensors), index)


def compiled(name: str) -> Any:
    """The channel-last rewrite under torch.compile, from a fresh start: dynamo limits the shapes of one forward."""
    torch._dynamo.reset()
    return torch.compile(baselines.ChannelLastConv(*baselines.case(name)), fullgraph=True, dynamic=False)


@cache
def error(name: str) -> float:
    """Largest relative difference of value and gradients to the float64 reference backend, on 300 edges."""
    conv, a = Convolution(*baselines.case(name)), arguments(name, 300)
    doubled = tuple(t.double() if t.is_floating_point() else t for t in a)
    with equikern.backend("reference"):
        expected = [conv(*doubled), *baselines.forward_backward(conv, doubled)]
    got = [conv(*a), *baselines.forward_backward(conv, a)]
    return max(float((g - e).abs().max() / e.abs().max()) for g, e in zip(got, expected, strict=True))


def flops(program: Any, step: str, edges: int) -> int:
    """Of one step; force training is a forward, two backwards and a double backward."""
    forward, backward = program.flops(edges, FORWARD), program.flops(edges, INPUTS)
    second = program.along(INPUTS).flops(edges, ALL)
    return {"forward": forward, "forward+backward": forward + backward}.get(step, forward + 2 * backward + second)  # type: ignore[no-any-return]


def traffic(program: Any, step: str, edges: int) -> int:
    """Bytes that a step must read and write at least: each row of each pass once."""
    rows = {"edge": edges, "sender": max(edges // 30, 1), "receiver": max(edges // 30, 1)}
    forward, backward = program.bytes(rows, 4, FORWARD), program.bytes(rows, 4, INPUTS)
    second = program.along(INPUTS).bytes(rows, 4, ALL)
    return {"forward": forward, "forward+backward": forward + backward}.get(step, forward + 2 * backward + second)  # type: ignore[no-any-return]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("name", ["mace", "nequip", "sevennet"])
def test_convolution(benchmark: Any, request: Any, name: str, edges: int, step: str) -> None:
    if error(name) > 5e-6:
        pytest.fail(f"{name} disagrees with the reference by {error(name):.1e}; it is not timed")
    spec, run, a = baselines.case(name), STEPS[step], arguments(name, edges)
    conv, theirs = Convolution(*spec), baselines.E3nnConv(*spec)
    rivals = {"e3nn": lambda: run(theirs, a)}
    if step != "force training" and not request.config.getoption("--no-compiled"):
        rewrite = compiled(name)
        rivals["compiled rewrite"] = lambda: run(rewrite, a)
    if step != "force training" and request.config.getoption("--compiled-e3nn"):
        torch._dynamo.reset()
        eager = torch.compile(baselines.E3nnConv(*spec), fullgraph=True, dynamic=False)
        rivals["e3nn under torch.compile"] = lambda: run(eager, a)
    other, why = cuequivariance(spec)
    skipped = {} if other else {"cuEquivariance": why}
    if other:
        rivals["cuEquivariance"] = lambda: run(other, a)
    benchmark.group = f"{name}-conv {edges} {step}"
    benchmark.extra_info.update(
        case=f"{name}-conv", edges=edges, step=step, error=error(name),
        flops=flops(conv.program, step, edges), bytes=traffic(conv.program, step, edges), skipped=skipped,
    )  # fmt: skip
    alternate(benchmark, lambda: run(conv, a), rivals)
