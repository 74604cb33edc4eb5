"""On a CUDA device: linear maps and the connection modes that mix channels, as matrix products."""

from __future__ import annotations

import pytest
import torch

from equikern import backends
from equikern.backends import species_rows
from equikern.backends.gpu.contract import why_not
from equikern.nn import MixedConvolution
from equikern.ops import evaluate
from equikern.program import by_species, linear
from equikern.testing import CASES, assert_close, derivatives, get, inputs, reference, tolerance

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
MIXED = [c for c in CASES if c.program.paths and why_not(c.program) is not None]


@pytest.fixture(params=[0, 1000], ids=["tiles", "each"])
def few(request, monkeypatch):
    """Rows of a map by species in tiles, and one by one."""
    monkeypatch.setattr(species_rows, "FEW", request.param)


@pytest.mark.parametrize("id", ["linear-species", "species-16", "species-pseudo"])
def test_maps_by_species_agree_with_the_reference_for_many_rows_and_few(id, few):
    case = get(id)
    got = derivatives(case.program, inputs(case, torch.float32).on("cuda"), "auto", 2)
    assert_close(got, reference(case, torch.float32, 2), tolerance(case.program, torch.float32, 2, case.longest_sum))


@pytest.mark.parametrize("case", MIXED, ids=str)
def test_value_gradient_and_double_gradient_are_those_of_the_reference(case):
    for dtype in (torch.float32, torch.float64):
        assert backends.select(case.program.text, "cuda", dtype) == "matmul"
        given = inputs(case, dtype).on("cuda")
        for order in (0, 1, 2):
            got = derivatives(case.program, given, "auto", order)
            allowed = tolerance(case.program, dtype, order, case.longest_sum)
            assert_close(got, reference(case, dtype, order), allowed, f"{case} {order}")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["f16", "bf16"])
@pytest.mark.parametrize("id", ["linear", "linear-species", "se3-8", "mode-uuw"])
def test_half_types_accumulate_in_float32(id, dtype):
    case = get(id)
    got = derivatives(case.program, inputs(case, dtype).on("cuda"), "matmul", 1)
    allowed = tolerance(case.program, dtype, 1, case.longest_sum) * 4  # rounded between the orders
    assert_close(got, reference(case, dtype, 1), allowed, str(case))


@pytest.mark.parametrize(
    "id", ["linear-wide", "linear-species", "species-16", "se3-8", "uvw-many-rows", "nodes-scalars"]
)
def test_a_step_waits_for_nothing_and_gives_the_same_bits_twice(id, few):
    case = get(id)
    given = inputs(case, torch.float32).on("cuda")
    leaves = [a.requires_grad_() for a in given.operands]

    def step():
        z = evaluate(case.program, leaves, given.index, given.rows)
        first = torch.autograd.grad(z.tanh().sum(), leaves, create_graph=True)
        return [z, *first, *torch.autograd.grad(sum(g.square().sum() for g in first), leaves)]

    first = step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        again = step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_linear_maps_are_captured_in_a_cuda_graph(few):
    mixed = linear("16x0e+16x1o", "16x0e+16x1o", [(0, 0, 0.25), (1, 1, 0.25)])
    x = torch.randn(100, 64, device="cuda", requires_grad=True)
    w = torch.randn(5, mixed.dims[1], device="cuda", requires_grad=True)
    species = torch.randint(5, (100,), device="cuda")

    def step():
        z = evaluate(by_species(mixed), (evaluate(mixed, (x, w[:1])), w), [species])
        return torch.autograd.grad(z.tanh().sum(), (x, w))

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        expected = step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = step()
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_fully_connected_messages_take_no_memory_for_the_weights_of_edges():
    conv = MixedConvolution("32x0e+32x1o", "0e+1o", "32x0e+32x1o", 64)
    edges, nodes = 20_000, 700
    index = torch.stack([torch.randint(nodes, (edges,)), torch.arange(edges) * nodes // edges]).cuda()
    sizes = [(nodes, 128), (edges, 4), (edges, 64), (64, conv.weight_numel)]
    tensors = [torch.randn(*size, device="cuda") for size in sizes]
    conv(*tensors, index)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    conv(*tensors, index)
    assert torch.cuda.max_memory_allocated() - before < edges * conv.weight_numel * 4
