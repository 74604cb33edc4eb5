"""e3nn's Linear, Gate and self-connections give the same numbers on equikern."""

import copy

import pytest
import torch

import equikern
from equikern.interop import report
from equikern.interop.swap import installed

o3 = pytest.importorskip("e3nn.o3", reason="e3nn is not installed")
nn = pytest.importorskip("e3nn.nn", reason="e3nn is not installed")

SILU, TANH = torch.nn.functional.silu, torch.tanh


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def agree(module, *inputs):
    """Values and the derivatives of their sum of squares, and of its derivatives, before and after `accelerate`."""
    module = module.double()
    parameters = list(module.parameters())

    def results():
        leaves = [a.clone().requires_grad_() for a in inputs]
        out = module(*leaves)
        first = torch.autograd.grad(out.square().sum(), [*leaves, *parameters], create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), [*leaves, *parameters])
        return [out, *first, *second]

    expected = results()
    equikern.accelerate(module)
    assert installed(module) is not None, str(report(module))
    for got, e in zip(results(), expected, strict=True):
        torch.testing.assert_close(got, e, rtol=1e-9, atol=1e-9 * float(e.detach().abs().max()))


@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("shape", [(5,), (2, 3), ()])
def test_linear(biases, shape):
    agree(o3.Linear("4x0e+3x1o+2x2e+5x0e", "6x0e+2x1o+1x0o+3x0e", biases=biases), draw(*shape, 28))


def test_linear_with_weights_given():
    module = o3.Linear("4x0e+3x1o", "2x0e+2x1o", internal_weights=False, shared_weights=True)
    agree(module, draw(5, 13), draw(module.weight_numel))


def test_torch_compile_of_a_linear_map_with_biases_agrees():
    module = equikern.accelerate(o3.Linear("4x0e+3x1o", "6x0e+2x1o+3x0e", biases=[True, False, True]).double())
    torch.nn.init.normal_(module.bias, generator=torch.Generator().manual_seed(0))
    compiled, x = torch.compile(module, fullgraph=True, backend="aot_eager"), draw(5, 13)
    torch.testing.assert_close(compiled(x), module(x), rtol=1e-12, atol=1e-12)


def test_accelerated_maps_and_gates_give_shapes_on_the_meta_device():
    for module in (o3.Linear("4x0e", "2x0e"), nn.Gate("4x0e", [SILU], "3x0e", [SILU], "3x1e")):
        x = torch.empty(5, module.irreps_in.dim, device="meta")
        equikern.accelerate(module).to("meta")
        assert module(x).shape == (5, module.irreps_out.dim)


@pytest.mark.parametrize("options", [{"f_in": 2, "f_out": 3}, {"internal_weights": False, "shared_weights": False}])
def test_a_linear_map_of_another_kind_is_left(options):
    module = equikern.accelerate(o3.Linear("4x0e", "2x0e", **options))
    assert installed(module) is None and "left: its" in str(report(module))


def test_a_linear_map_without_paths_is_left():
    assert "left: it has no paths" in str(report(o3.Linear("4x0e", "2x1o")))


@pytest.mark.parametrize(
    "arguments",
    [
        ("6x0e", [SILU], "5x0e", [SILU], "3x1o+2x2e"),
        ("6x0e+3x0o", [SILU, TANH], "3x0e+2x0o", [torch.sigmoid, TANH], "4x1o+1x2e"),
        ("4x0e", [None], "3x0e", [torch.abs], "3x1e"),
        ("4x0e", [torch.tanh], "", [], ""),
    ],
)
def test_gate(arguments):
    gate = nn.Gate(*arguments)
    agree(gate, draw(4, gate.irreps_in.dim))


def test_a_gate_with_an_unknown_activation_is_left():
    gate = nn.Gate("4x0e", [torch.cos], "3x0e", [SILU], "3x1e")
    text = str(report(equikern.accelerate(gate)))
    assert installed(gate) is None and "left: its activation" in text and "mul" in text


def test_a_gate_that_computes_something_else_is_left():
    gate = nn.Gate("4x0e", [TANH], "3x0e", [SILU], "3x1e")
    gate.act_scalars.forward = lambda x: 2 * x
    assert "left: a check on random input" in str(report(equikern.accelerate(gate)))


@pytest.mark.parametrize("batch", [1, 7])
def test_products_with_one_hot_species(batch):
    module = o3.FullyConnectedTensorProduct("4x0e+3x1o", "5x0e", "2x0e+4x1o+1x0e").double()
    x, species = draw(batch, 13), torch.arange(batch) * 2 % 5
    y = torch.nn.functional.one_hot(species, 5).double()
    expected = module(x, y)
    grads = torch.autograd.grad(expected.square().sum(), module.weight)
    got = equikern.accelerate(module)(x, y)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
    (g,) = torch.autograd.grad(got.square().sum(), module.weight)
    torch.testing.assert_close(g, grads[0], rtol=1e-10, atol=1e-10)


def test_products_with_other_scalars_and_gradients():
    module = o3.FullyConnectedTensorProduct("4x0e+3x1o", "5x0e", "2x0e+4x1o+1x0e")
    agree(module, draw(3, 13), torch.nn.functional.one_hot(torch.tensor([0, 2, 2]), 5).double())
    agree(copy.deepcopy(module), draw(3, 13), draw(3, 5))
