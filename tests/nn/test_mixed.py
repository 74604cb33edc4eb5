"""MixedConvolution: fully connected messages with weights h @ W, against e3nn and against the reference backend."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import equikern
from equikern.errors import ProgramError, ShapeError
from equikern.graph import Graph
from equikern.nn import MixedConvolution
from equikern.testing import assert_close, tolerance

X, Y, Z, H = "5x0e+3x1o+2x1e", "0e+1o+2e", "4x0e+3x1o+2x2e", 7
N, E = 6, 19


def arguments(conv, nodes=N, edges=E, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    shapes = [
        (nodes, conv.irreps_x.dim),
        (edges, conv.irreps_y.dim),
        (edges, conv.features),
        (conv.features, conv.weight_numel),
    ]
    given = [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]
    return [*given, torch.randint(max(nodes, 1), (2, edges), generator=generator)]


def gradients(f, given):
    leaves = [a.detach().requires_grad_() for a in given[:4]]
    out = f(*leaves, given[4])
    first = torch.autograd.grad(out.tanh().sum(), leaves, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), leaves)
    return [out, *first, *second]


@pytest.mark.parametrize("y", [Y, "2x0e+3x1o"])
@pytest.mark.parametrize("x", [X, "3x0e", "17x1o+1x0o"])
def test_equals_e3nns_fully_connected_product_summed_at_the_receivers(x, y):
    o3 = pytest.importorskip("e3nn.o3", reason="e3nn is not installed")
    torch.set_default_dtype(torch.float64)
    try:
        tp = o3.FullyConnectedTensorProduct(x, y, Z, shared_weights=False, internal_weights=False)
    finally:
        torch.set_default_dtype(torch.float32)
    conv = MixedConvolution(x, y, Z, H)
    assert conv.weight_numel == tp.weight_numel

    def theirs(x, y, h, weight, index):
        messages = tp(x[index[0]], y, h @ weight)
        return x.new_zeros(len(x), messages.shape[1]).index_add(0, index[1], messages)

    given = arguments(conv)
    assert_close(gradients(conv, given), gradients(theirs, given), 1e-11)


def test_float32_is_close_to_float64():
    conv = MixedConvolution("33x0e+9x1o", Y, "33x0e+9x1o", 21)
    given = arguments(conv, dtype=torch.float32)
    doubled = [a.double() if a.is_floating_point() else a for a in given]
    got, expected = gradients(conv, given)[:5], gradients(conv, doubled)[:5]
    # Two products one after the other.
    allowed = 2 * tolerance(conv.program, torch.float32, 1, E)
    assert_close(got, [a.float() for a in expected], allowed)


def test_the_cpu_backend_agrees_with_the_reference():
    conv = MixedConvolution(X, Y, Z, H)
    given = arguments(conv)
    got = gradients(conv, given)
    with equikern.backend("reference"):
        assert_close(got, gradients(conv, given), 1e-11)


def test_second_derivatives_are_those_of_finite_differences():
    conv = MixedConvolution("2x0e+1x1o", "0e+1o", "2x0e+2x1o", 3)
    *leaves, index = arguments(conv, 3, 5)
    leaves = [a.requires_grad_() for a in leaves]
    assert torch.autograd.gradgradcheck(lambda *a: conv(*a, index), leaves, fast_mode=True)


@pytest.mark.parametrize("nodes, edges", [(3, 0), (1, 4), (50, 3)])
def test_few_edges(nodes, edges):
    conv = MixedConvolution(X, Y, Z, H)
    *given, index = arguments(conv, nodes, edges)
    out = conv(*given, index)
    alone = torch.ones(nodes, dtype=torch.bool)
    alone[index[1]] = False
    assert out.shape == (nodes, conv.irreps_out.dim) and not out[alone].any() and out.isfinite().all()


def test_a_graph_gives_the_same_bits():
    conv = MixedConvolution(X, Y, Z, H)
    *given, index = arguments(conv)
    assert torch.equal(conv(*given, index, Graph(index, N)), conv(*given, index))


def test_the_weights_of_the_edges_are_never_formed():
    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for a in out if isinstance(out, (list, tuple)) else [out]:
                if isinstance(a, torch.Tensor):
                    self.numel = max(self.numel, a.numel())
            return out

    conv = MixedConvolution("16x0e+16x1o", Y, "16x0e+16x1o", 8)
    given = arguments(conv, 10, 300)
    with Largest() as largest:
        gradients(conv, given)
    assert 0 < largest.numel < 300 * conv.weight_numel / 4


def test_torch_compile_agrees():
    conv = MixedConvolution(X, Y, Z, H)
    given = arguments(conv)
    compiled = torch.compile(conv, fullgraph=True, backend="aot_eager")
    assert_close(compiled(*given), conv(*given), 1e-13)


def test_other_modes_are_refused():
    with pytest.raises(ProgramError, match="uvw"):
        MixedConvolution("4x0e", "0e", "4x0e", H, [(0, 0, 0, "uvu", True)])


@pytest.mark.parametrize("which", range(4))
def test_misfits_are_refused(which):
    conv = MixedConvolution(X, Y, Z, H)
    given = arguments(conv)
    given[which] = given[which][:, :-1]
    with pytest.raises(ShapeError):
        conv(*given)
