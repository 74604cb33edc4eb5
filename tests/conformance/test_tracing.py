"""The op inside torch's compilers: opcheck, torch.compile, and graphs of energy and forces."""

from __future__ import annotations

import pytest
import torch

from equikern import backends
from equikern.nn import Convolution
from equikern.testing import LAYERS, Inputs, assert_close, force_graph, get, inputs, run, tolerance

BACKENDS = pytest.mark.parametrize("backend", backends.NAMES)
# torch's tracers use names that torch itself has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

ACTIVATIONS = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "exp": torch.exp,
    "silu": torch.nn.functional.silu,
    "softplus": torch.nn.functional.softplus,
    "sqrt": lambda a: (a * a + 1).sqrt(),
    "norm": lambda a: a.norm(dim=1),
    "softmax": lambda a: torch.softmax(a, 1) * a,
}


def arguments_of_op(case, backend, open):
    given = inputs(case, torch.float32)
    operands = [torch.empty(0) if a is None else a.requires_grad_() for a in given.operands]
    rows = {case.program.output: given.rows}
    if open == [case.program.output]:
        operands.append(torch.empty(0))
    else:
        operands.append(torch.randn(given.rows, case.program.dims[case.program.output], requires_grad=True))
    counts = [rows.get(slot, len(operands[slot])) for slot in open]
    return case.program.text, backend, operands, list(given.index), counts, open


@pytest.mark.parametrize("id", ["mul-1", "mixed-weights", "shared-weights", "rows-edge", "mode-uvw"])
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@BACKENDS
def test_opcheck_passes(id, backward, backend, require):
    case = get(id)
    require(backend, case.program, torch.float32)
    arguments = arguments_of_op(case, backend, [0, 1] if backward else [case.program.output])
    torch.library.opcheck(torch.ops.equikern.contract.default, arguments)


def test_opcheck_of_the_plan_passes():
    sender, receiver = torch.randint(4, (2, 9))
    torch.library.opcheck(torch.ops.equikern.plan.default, (sender, receiver, 4, 4))


def check_compiled(case, backend, compiler):
    given = inputs(case, torch.float32)
    leaves = [a.requires_grad_() for a in given.operands if a is not None]

    def f(*leaves):
        rest = [None] * (len(given.operands) - len(leaves))
        with_graph = Inputs((*leaves, *rest), given.index, given.rows)
        return torch.tanh(run_selected(case.program, with_graph)).sum()

    with backends.backend(backend):
        compiled = torch.compile(f, fullgraph=True, backend=compiler)
        expected = torch.autograd.grad(f(*leaves), leaves)
        value = compiled(*leaves)
        got = torch.autograd.grad(value, leaves)
        assert_close(value, f(*leaves), 1e-5)
    assert_close(got, expected, tolerance(case.program, torch.float32, 1, case.longest_sum))


def run_selected(program, given):
    from equikern.ops import evaluate

    return evaluate(program, given.operands, given.index, given.rows)


@pytest.fixture
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("id", ["mul-5", "mixed-weights", "unweighted", "rows-edge", "mode-uvw"])
@BACKENDS
def test_compiled_forward_and_backward_agree_with_eager(id, backend, require, fresh_dynamo):
    case = get(id)
    require(backend, case.program, torch.float32)
    check_compiled(case, backend, "aot_eager")


def test_inductor_agrees_with_eager(fresh_dynamo):
    check_compiled(get("mul-1"), "auto", "inductor")


def test_a_compiled_convolution_agrees_with_eager(fresh_dynamo):
    conv = Convolution(*LAYERS["schnet-64"])
    x, y, w = torch.randn(4, 64), torch.randn(9, 1), torch.randn(9, conv.weight_numel)
    edges = torch.randint(4, (2, 9))
    got = torch.compile(conv, fullgraph=True, backend="aot_eager")(x, y, w, edges)
    assert_close(got, conv(x, y, w, edges), tolerance(conv.program, torch.float32, degree=9))


def model(activation):
    """(energy, arguments): positions, parameters and edges of a small network with one convolution."""
    generator = torch.Generator().manual_seed(3)
    conv = Convolution(
        "2x0e+2x1o", "0e+1o", "2x0e+2x1o", [(0, 0, 0, "uvu", True), (1, 1, 0, "uvu", True), (0, 1, 1, "uvu", True)]
    )
    # No two sizes are equal: the tracer takes equal sizes for the same symbol.
    edges = torch.tensor([[0, 1, 2, 3, 0, 2, 4], [1, 0, 1, 2, 3, 3, 1]])
    x = torch.randn(5, 8, generator=generator, dtype=torch.float64)
    positions = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    weight = torch.randn(7, conv.weight_numel, generator=generator, dtype=torch.float64)

    def energy(positions, x, weight, edges):
        vector = positions[edges[0]] - positions[edges[1]]
        y = torch.cat([torch.ones_like(vector[:, :1]), vector], 1)
        return activation(conv(x, y, weight, edges)).sum()

    return energy, (positions, x, weight, edges)


def training_gradients(energy_and_forces, arguments):
    positions, x, weight, edges = arguments
    leaves = [a.detach().requires_grad_() for a in (positions, x, weight)]
    energy, forces = energy_and_forces(*leaves, edges)
    return torch.autograd.grad(energy + forces.square().sum(), leaves[1:])


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_training_gradients_of_a_force_graph_equal_eager(name):
    energy, arguments = model(ACTIVATIONS[name])

    def eager(*args):
        value = energy(*args)
        return value, -torch.autograd.grad(value, args[0], create_graph=True)[0]

    got = training_gradients(force_graph(energy, arguments), arguments)
    assert_close(got, training_gradients(eager, arguments), 1e-12)


def test_a_force_graph_with_its_detach_nodes_has_wrong_training_gradients():
    """Why `strip_detach` is needed: torch's tracer cuts the second derivative of tanh without a word."""
    from torch.fx.experimental.proxy_tensor import make_fx

    energy, arguments = model(torch.tanh)

    def both(*args):
        value = energy(*args)
        return value, -torch.autograd.grad(value, args[0], create_graph=True)[0]

    leaves = [a.detach().requires_grad_(a.is_floating_point()) for a in arguments]
    graph = make_fx(both, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*leaves)
    got, expected = training_gradients(graph, arguments), training_gradients(both, arguments)
    assert any(node.target is torch.ops.aten.detach.default for node in graph.graph.nodes)
    with pytest.raises(AssertionError):
        assert_close(got, expected, 1e-6)


def test_a_compiled_force_graph_trains_as_eager(fresh_dynamo):
    energy, arguments = model(torch.tanh)
    graph = force_graph(energy, arguments)
    compiled = torch.compile(graph, fullgraph=True, backend="aot_eager")
    assert_close(training_gradients(compiled, arguments), training_gradients(graph, arguments), 1e-12)


def test_a_force_graph_serves_other_numbers_of_edges():
    energy, arguments = model(torch.tanh)
    graph = force_graph(energy, arguments)
    positions, x, weight, edges = arguments
    fewer = (positions, x, weight[:4], edges[:, :4])
    assert_close(graph(*fewer)[0], energy(*fewer), 1e-12)


@BACKENDS
def test_choosing_another_backend_gives_the_same_value(backend, require):
    case = get("paths-meet")
    require(backend, case.program, torch.float64)
    given = inputs(case, torch.float64)
    expected = run(case.program, given, "auto")
    assert_close(
        run(case.program, given, backend), expected, tolerance(case.program, torch.float64, 0, case.longest_sum)
    )
