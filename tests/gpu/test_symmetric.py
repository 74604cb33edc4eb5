"""Symmetric contractions on a CUDA device: layers of MACE against float64, the same bits twice, CUDA graphs."""

from __future__ import annotations

import pytest
import torch

from equikern import backends
from equikern.backends.cuda import symmetric as kernels
from equikern.ops.symmetric_contraction import symmetric_contraction
from equikern.program.symmetric import symmetric
from equikern.testing import assert_close, symmetric_derivatives, tolerance

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
X, Z = "128x0e+128x1o+128x2e+128x3o", "128x0e+128x1o"
SPECIES = 4


@pytest.fixture(autouse=True)
def needs_kernels():
    if (reason := kernels.supports("cuda", torch.float32)) is not None:
        pytest.skip(reason)


def operands(program, nodes, dtype):
    """x, weight and species, on the CPU."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(nodes, program.irreps_x.dim, generator=generator, dtype=dtype)
    weight = torch.randn(SPECIES, len(program.terms), program.channels, generator=generator, dtype=dtype)
    return x, weight, torch.randint(SPECIES, (nodes,), generator=generator)


def force_training(program, x, weight, species):
    """z, the gradients of its square, and the gradients of the square of these."""
    leaves = [x.detach().requires_grad_(), weight.detach().requires_grad_()]
    z = symmetric_contraction(program, *leaves, species)
    first = torch.autograd.grad(z.square().sum() / 1e4, leaves, create_graph=True)
    second = torch.autograd.grad(first[0].square().sum() / 1e4, leaves)
    return [t.detach() for t in (z, *first, *second)]


@pytest.mark.parametrize("layout", ["channels", "mul_ir"])
def test_a_layer_of_mace_gives_what_float64_gives_and_the_same_bits_twice(layout):
    program = symmetric(X, Z, 3, layout_x=layout)
    assert backends.select_symmetric("cuda", torch.float32) == "cuda"
    x, weight, species = operands(program, 300, torch.float32)
    given = [t.cuda() for t in (x, weight, species)]
    got, again = (force_training(program, *given) for _ in range(2))
    expected = force_training(program, x.double(), weight.double(), species)
    for order, (found, right) in enumerate(zip(got, expected, strict=True)):
        assert_close([found.cpu()], [right], tolerance(program, torch.float32, min(order, 2), 300), str(order))
    assert all(map(torch.equal, got, again))


@pytest.mark.parametrize("id", ["ir-mul", "four", "odd", "many-nodes", "no-nodes", "empty"])
def test_double_precision_is_that_of_the_cpu(id, monkeypatch):
    import equikern.testing.symmetric as cases

    program, nodes = cases.SYMMETRIC[id]
    expected = symmetric_derivatives(id, torch.float64, "auto", 2, torch.float64)
    drawn = cases.symmetric_inputs
    monkeypatch.setattr(cases, "symmetric_inputs", lambda *given: tuple(t.cuda() for t in drawn(*given)))
    randn = torch.randn
    monkeypatch.setattr(torch, "randn", lambda *given, **named: randn(*given, **named).cuda())
    got = symmetric_derivatives(id, torch.float64, "cuda", 2, torch.float64)
    assert {g.device.type for g in got} == {"cuda"}
    assert_close([g.cpu() for g in got], expected, tolerance(program, torch.float64, 2, max(nodes, 1)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["f16", "bf16"])
def test_half_types_accumulate_in_float32(dtype):
    program = symmetric("48x0e+48x1o", "48x0e+48x1o", 2, layout_x="channels")
    x, weight, species = operands(program, 100, dtype)
    z = symmetric_contraction(program, x.cuda(), weight.cuda(), species.cuda()).cpu()
    assert z.dtype == dtype
    assert_close([z], [symmetric_contraction(program, x.double(), weight.double(), species)], tolerance(program, dtype))


def test_a_species_out_of_range_gives_nan_and_no_fault():
    program = symmetric(X, Z, 3, layout_x="channels")
    x, weight, species = operands(program, 20, torch.float32)
    species[3], species[7] = -1, 10**9
    z = symmetric_contraction(program, x.cuda(), weight.cuda(), species.cuda()).cpu()
    assert z.isnan().all(1).nonzero().flatten().tolist() == [3, 7] and int(z.isnan().any(1).sum()) == 2


def test_a_cuda_graph_replays_a_training_step():
    program = symmetric(X, Z, 3, layout_x="channels")
    given = [t.cuda() for t in operands(program, 300, torch.float32)]
    expected = force_training(program, *given)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        force_training(program, *given)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = force_training(program, *given)
    other = torch.randn_like(given[0])
    given[0].copy_(other)
    graph.replay()
    assert_close(kept, force_training(program, other, *given[1:]), 0.0)
    assert not torch.equal(kept[0], expected[0])
