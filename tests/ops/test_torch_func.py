"""torch.func goes through every op, transforms of transforms too: gradients, Jacobians, Hessians, batches."""

import pytest
import torch
from torch.func import grad, hessian, jacrev, vjp, vmap

from equikern.errors import BackendError
from equikern.nn import Convolution, RadialConvolution, SymmetricContraction
from equikern.o3 import FullyConnectedTensorProduct, Linear
from equikern.ops import radial, spherical_harmonics
from equikern.ops.gate import Part, gate, gate_spec
from equikern.ops.radial_embedding import radial_embedding
from equikern.ops.spline import spline


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


INDEX = torch.tensor([[0, 1, 2, 2, 1], [1, 2, 0, 1, 0]])
SPECIES = torch.tensor([0, 1, 1, 0, 1])
CONVOLUTION = Convolution("2x0e+2x1o", "0e+1o", "2x0e+2x1o", [(0, 0, 0, "uvu", True), (1, 1, 0, "uvu", True)])
X, Y, WEIGHT = draw(3, 8), draw(5, 4), draw(5, CONVOLUTION.weight_numel)
CONNECTED = FullyConnectedTensorProduct("2x0e+2x1o", "0e+1o", "3x0e+1x1o").double()
LINEAR = Linear("2x0e+2x1o", "3x0e+2x1o", biases=True).double()
CONTRACTION = SymmetricContraction("2x0e+2x1o", "2x0e", correlation=3, num_species=2).double()
GATE = gate_spec(5, (Part(0, 1, "tanh"), Part(1, 1, "sigmoid", 2.0, gated=2, dim=3)))
FUNCTIONS = {
    "convolution": (lambda x: CONVOLUTION(x[:3], Y, WEIGHT, INDEX), (5, 8)),
    "convolution of weights": (lambda w: CONVOLUTION(X, Y, w, INDEX), tuple(WEIGHT.shape)),
    "connected": (lambda x: CONNECTED(x, Y), (5, 8)),
    "linear": (LINEAR, (5, 8)),
    "harmonics": (lambda x: spherical_harmonics([0, 1, 2, 3], x, True, "component"), (5, 3)),
    "spline": (lambda x: spline(x.square().sum(1), [0.0, 30.0], [9])[0], (5, 2)),
    "contraction": (lambda x: CONTRACTION(x, SPECIES), (5, 8)),
    "radial": (lambda x: radial_embedding(radial.length(x), 4, 5.0), (5, 3)),
    "gate": (lambda x: gate(GATE, x), (5, 5)),
}
by_function = pytest.mark.parametrize("name", FUNCTIONS)


def energy_of(name):
    function, shape = FUNCTIONS[name]
    return lambda x: function(x.sin()).sin().sum() + function(x.sin()).sum(), draw(*shape)


def gradient(energy, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(energy(x), x)[0]


@by_function
def test_gradients_and_batches_of_them_are_those_of_autograd(name):
    energy, x = energy_of(name)
    batch = torch.stack([x, x.flip(0), 0.5 * x])
    torch.testing.assert_close(grad(energy)(x), gradient(energy, x))
    torch.testing.assert_close(vmap(energy)(batch), torch.stack([energy(a) for a in batch]))
    torch.testing.assert_close(vmap(grad(energy))(batch), torch.stack([gradient(energy, a) for a in batch]))
    torch.testing.assert_close(vmap(grad(energy))(batch[:0]), batch[:0])


@by_function
def test_hessians_are_those_of_autograd(name):
    energy, x = energy_of(name)
    expected = torch.autograd.functional.hessian(energy, x)
    torch.testing.assert_close(jacrev(grad(energy))(x), expected)
    along = draw(*x.shape).flip(0)
    torch.testing.assert_close(vjp(grad(energy), x)[1](along)[0], torch.einsum("abcd,cd->ab", expected, along))
    if name == "gate":
        with pytest.raises(BackendError, match="reverse mode"):
            hessian(energy)(x)
    else:
        torch.testing.assert_close(hessian(energy)(x), expected)


@by_function
def test_a_batch_of_cotangents_goes_through_autograds_backward(name):
    energy, x = energy_of(name)
    leaf = x.clone().requires_grad_()
    (forces,) = torch.autograd.grad(energy(leaf), leaf, create_graph=True)
    directions = torch.stack([draw(*x.shape), draw(*x.shape).flip(0)])
    got = vmap(lambda v: torch.autograd.grad(forces, leaf, v, retain_graph=True)[0])(directions)
    expected = [torch.autograd.grad(forces, leaf, v, retain_graph=True)[0] for v in directions]
    torch.testing.assert_close(got, torch.stack(expected))


def test_no_grad_inside_a_function_means_what_it_means_to_torch():
    matrix, x = LINEAR(torch.eye(8, dtype=torch.float64)).detach() - LINEAR(torch.zeros(1, 8).double()), draw(3, 8)

    def twice(function):
        def energy(x):
            with torch.no_grad():
                fixed = function(x)
            return (function(x) * fixed).sum()

        return grad(lambda x: grad(energy)(x).sin().sum())(x)

    unbiased = Linear("2x0e+2x1o", "3x0e+2x1o").double()
    unbiased.weight = LINEAR.weight
    torch.testing.assert_close(twice(unbiased), twice(lambda x: x @ matrix))


def test_a_layer_with_a_table_runs_its_network():
    class Network(torch.nn.Module):
        def forward(self, r):
            return torch.stack([(-r).exp(), r * (-r).exp()], 1)

    layer = RadialConvolution(
        "1x0e", "0e+1o", "1x0e+1x1o", [(0, 0, 0, "uvu", True), (0, 1, 1, "uvu", True)], radial=Network(), r_max=5.0
    ).eval()
    index, x = torch.stack([torch.arange(40) % 7, torch.arange(40) % 5]), torch.ones(7, 1)
    vec = 1 + torch.rand(40, 3, generator=torch.Generator().manual_seed(0))

    def energy(v):
        return layer(x, v, index).square().sum()

    batch = torch.stack([vec, 1.1 * vec])
    torch.testing.assert_close(vmap(grad(energy))(batch), torch.stack([gradient(energy, v) for v in batch]))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_torch_jit_trace_is_refused_with_the_way_out():
    with pytest.raises(BackendError, match=r"use torch\.export"):
        torch.jit.trace(LINEAR, draw(3, 8))
