"""A gradient taken of dual numbers carries their tangents through every op: nothing is dropped in silence."""

import pytest
import torch
from torch.autograd import forward_ad

from equikern.errors import BackendError
from equikern.nn import Convolution, SymmetricContraction
from equikern.o3 import Linear
from equikern.ops import radial, spherical_harmonics
from equikern.ops.gate import Part, gate, gate_spec
from equikern.ops.spline import spline

CONVOLUTION = Convolution("2x0e+2x1o", "0e+1o", "2x0e+2x1o", [(0, 0, 0, "uvu", True), (1, 1, 0, "uvu", True)])
LINEAR = Linear("2x0e+2x1o", "3x0e+2x1o").double()
INDEX = torch.tensor([[0, 1, 2, 2, 1], [1, 2, 0, 1, 0]])
CONTRACTION = SymmetricContraction("2x0e+2x1o", "2x0e", correlation=3, num_species=2).double()
SPECIES = torch.tensor([0, 1, 1, 0, 1])


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


Y, WEIGHT = draw(5, 4), draw(5, CONVOLUTION.weight_numel)
FUNCTIONS = {
    "contract": (lambda x: CONVOLUTION(x[:3], Y, WEIGHT, INDEX), (5, 8)),
    "linear": (LINEAR, (5, 8)),
    "harmonics": (lambda x: spherical_harmonics([0, 1, 2, 3], x, True, "component"), (5, 3)),
    "spline": (lambda x: spline(x.square().sum(1), [0.0, 30.0], [9])[0], (5, 2)),
    "symmetric_contraction": (lambda x: CONTRACTION(x, SPECIES), (5, 8)),
    "radial": (lambda x: radial.bessel(x.square().sum(1).sqrt(), 4, 5.0), (5, 2)),
}


ENERGIES = {  # in the second, gradients by an op's results are constant
    "bent after": lambda function, x: function(x).sin().sum(),
    "bent before": lambda function, x: function(x.sin()).sum(),
}


@pytest.mark.parametrize("bent", ENERGIES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_tangent_of_a_gradient_is_a_product_with_the_hessian(name, bent):
    function, shape = FUNCTIONS[name]
    value, along = draw(*shape), draw(*shape).flip(0)

    def energy(x):
        return ENERGIES[bent](function, x)

    x = value.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(energy(x), x, create_graph=True)
    (expected,) = torch.autograd.grad(gradient, x, along)  # the Hessian is symmetric
    with forward_ad.dual_level():
        x = forward_ad.make_dual(value.clone().requires_grad_(), along)
        (gradient,) = torch.autograd.grad(energy(x), x)
        tangent = forward_ad.unpack_dual(gradient).tangent
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(tangent, expected)


def test_a_gate_refuses_what_it_would_drop():
    spec = gate_spec(5, (Part(0, 1, "tanh"), Part(1, 1, "sigmoid", 2.0, gated=2, dim=3)))
    with forward_ad.dual_level(), pytest.raises(BackendError, match="reverse mode"):
        x = forward_ad.make_dual(draw(4, 5).requires_grad_(), draw(4, 5))
        torch.autograd.grad(gate(spec, x).sum(), x)
