"""Convolution against what users run today: e3nn's TensorProduct on gathered rows, then a sum at the receivers."""

from __future__ import annotations

import pytest
import torch

from equikern import backends
from equikern.nn import Convolution
from equikern.testing import LAYERS, assert_close

o3 = pytest.importorskip("e3nn.o3", reason="e3nn is not installed")
N, E = 4, 11
F64 = torch.float64


@pytest.fixture
def double():
    """e3nn makes its coefficients in the default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(F64)
    yield
    torch.set_default_dtype(before)


def theirs(spec, x, y, w, edges):
    x_irreps, y_irreps, z_irreps, instructions = spec
    tp = o3.TensorProduct(
        str(x_irreps), str(y_irreps), str(z_irreps), instructions, shared_weights=False, internal_weights=False
    )
    return x.new_zeros(N, tp.irreps_out.dim).index_add(0, edges[1], tp(x[edges[0]], y, w))


def both(name):
    spec = LAYERS[name]
    conv = Convolution(*spec)
    leaves = [
        torch.randn(n, d, dtype=F64, requires_grad=True)
        for n, d in ((N, spec[0].dim), (E, spec[1].dim), (E, conv.weight_numel))
    ]
    edges = torch.randint(N, (2, E))
    return lambda *a: conv(*a, edges), lambda *a: theirs(spec, *a, edges), leaves


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_convolutions_equal_e3nn(name, backend, double):
    ours, expected, leaves = both(name)
    with backends.backend(backend):
        got = ours(*leaves)
    assert_close(got, expected(*leaves), 1e-12)


@pytest.mark.parametrize("name", ["mace-conv", "nequip-conv", "sevennet-conv", "se3-8"])
def test_gradients_of_a_force_training_step_equal_e3nn(name, double):
    ours, expected, leaves = both(name)

    def step(f):
        energy = torch.tanh(f(*leaves)).sum()
        first = torch.autograd.grad(energy, leaves, create_graph=True)
        return [*first, *torch.autograd.grad(energy + sum(g.square().sum() for g in first), leaves)]

    assert_close(step(ours), step(expected), 1e-12)


@pytest.mark.parametrize("name", ["mace-conv", "nequip-conv", "sevennet-conv"])
@pytest.mark.parametrize("order", [0, 1])
def test_float32_convolutions_on_cpu_are_within_two_millionths_of_e3nn_in_float64(name, order, double):
    ours, expected, leaves = both(name)
    narrow = [a.detach().float().requires_grad_() for a in leaves]
    wide = [a.detach().double().requires_grad_() for a in narrow]
    with backends.backend("cpu"):
        got, right = ours(*narrow), expected(*wide)
    if order:
        got, right = torch.autograd.grad(got.sum(), narrow), torch.autograd.grad(right.sum(), wide)
    assert_close(got, right, 2e-6)
