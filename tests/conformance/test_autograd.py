"""The op is closed under differentiation: derivatives to third order, forward mode, and nothing unasked for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.autograd import forward_ad

from equikern import backends
from equikern.testing import Calls, Inputs, assert_close, get, inputs, run, tagged, tolerance

# torch itself calls its deprecated torch.jit.script when forward mode is first used.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

X, Y, W, Z = range(4)
BACKENDS = pytest.mark.parametrize("backend", backends.NAMES)


def function_of_inputs(case, backend):
    """(f, leaves): f takes the float64 operands that are there and gives z."""
    given = inputs(case, torch.float64)
    present = [n for n, a in enumerate(given.operands) if a is not None]

    def f(*leaves):
        operands = [None] * len(given.operands)
        for n, a in zip(present, leaves, strict=True):
            operands[n] = a
        return run(case.program, Inputs(tuple(operands), given.index, given.rows), backend)

    return f, [given.operands[n].requires_grad_() for n in present]


def check_derivatives(case, backend):
    f, leaves = function_of_inputs(case, backend)
    assert torch.autograd.gradcheck(f, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(f, leaves, fast_mode=True, check_undefined_grad=False)


@pytest.mark.parametrize("case", [*tagged("small", "channelwise"), *tagged("mode")], ids=str)
def test_first_and_second_derivatives_on_cpu_are_those_of_finite_differences(case):
    check_derivatives(case, "cpu")


SPECIFIED = [
    *tagged("mode"),
    *map(get, ["mixed-weights", "shared-mixed", "rows-species-weights", "linear", "linear-edge-weights"]),
]


@pytest.mark.parametrize("case", SPECIFIED, ids=str)
def test_first_and_second_derivatives_of_the_reference_are_those_of_finite_differences(case):
    check_derivatives(case, "reference")


@BACKENDS
def test_absent_cotangents_of_the_gradient_are_zero(backend, require):
    require(backend, get("mixed-weights").program, torch.float64)
    f, leaves = function_of_inputs(get("mixed-weights"), backend)
    assert torch.autograd.gradgradcheck(f, leaves, fast_mode=True, check_undefined_grad=True)


@pytest.mark.parametrize("id", ["mul-1", "shared-mixed", "rows-edge", "mode-uvw", "linear"])
@BACKENDS
def test_third_derivatives_are_those_of_finite_differences(id, backend, require):
    case = replace(get(id), nodes=2, degree=2)
    require(backend, case.program, torch.float64)
    f, leaves = function_of_inputs(case, backend)

    def gradient(*args):
        return torch.autograd.grad(f(*args).pow(3).sum(), args, create_graph=True)

    assert torch.autograd.gradgradcheck(gradient, leaves, fast_mode=True, check_undefined_grad=False)


@pytest.mark.parametrize("id", ["paths-meet", "mixed-weights", "rows-edge", "mode-uuw", "linear"])
@BACKENDS
def test_forward_mode_is_the_directional_derivative(id, backend, require):
    case = get(id)
    require(backend, case.program, torch.float64)
    f, leaves = function_of_inputs(case, backend)
    leaves = [a.detach() for a in leaves]
    tangents = [torch.randn_like(a) for a in leaves]
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(a, t) for a, t in zip(leaves, tangents, strict=True)]
        got = forward_ad.unpack_dual(f(*duals)).tangent
    leaves = [a.requires_grad_() for a in leaves]
    z = f(*leaves)
    c = torch.zeros_like(z, requires_grad=True)
    gradients = torch.autograd.grad(z, leaves, c, create_graph=True)
    (expected,) = torch.autograd.grad(gradients, c, tangents)
    assert_close(got, expected, tolerance(case.program, torch.float64, 1, case.longest_sum))


@BACKENDS
def test_forward_mode_along_one_operand_is_the_product_with_its_tangent(backend, require):
    case = get("paths-meet")
    require(backend, case.program, torch.float64)
    f, leaves = function_of_inputs(case, backend)
    x, y, w = (a.detach() for a in leaves)
    t = torch.randn_like(y)
    with forward_ad.dual_level():
        got = forward_ad.unpack_dual(f(x, forward_ad.make_dual(y, t), w)).tangent
    assert_close(got, f(x, t, w), tolerance(case.program, torch.float64, 1, case.longest_sum))


def energy_and_leaves(id="paths-meet", backend="auto"):
    case = get(id)
    f, leaves = function_of_inputs(case, backend)
    return f(*leaves).tanh().sum(), leaves


@pytest.mark.parametrize("slot", [X, Y, W])
def test_backward_opens_only_what_was_asked_for(slot):
    energy, leaves = energy_and_leaves()
    with Calls() as calls:
        torch.autograd.grad(energy, leaves[slot])
    assert calls.opened == [[slot]]


@pytest.mark.parametrize("wanted", [(X, Y), (X, W), (Y, W), (X, Y, W)])
def test_backward_opens_all_that_was_asked_for_in_one_call(wanted):
    energy, leaves = energy_and_leaves()
    with Calls() as calls:
        torch.autograd.grad(energy, [leaves[slot] for slot in wanted])
    assert calls.opened == [list(wanted)]


def test_forces_do_not_open_the_gradient_of_inner_weights():
    case = get("paths-meet")
    f, (x, y, w) = function_of_inputs(case, "auto")
    factor = torch.ones((), dtype=torch.float64, requires_grad=True)
    energy = f(x, y, w * factor).tanh().sum()
    with Calls() as calls:
        torch.autograd.grad(energy, x)
    assert calls.opened == [[X]]


def test_backward_to_a_leaf_opens_what_accumulates_there():
    case = get("paths-meet")
    f, (x, y, w) = function_of_inputs(case, "auto")
    energy = f(x, y.detach(), w).tanh().sum()
    with Calls() as calls:
        energy.backward()
    assert calls.opened == [[X, W]] and x.grad is not None and w.grad is not None


def test_no_gradient_no_backward_call():
    case = get("paths-meet")
    f, leaves = function_of_inputs(case, "auto")
    with Calls() as calls, torch.no_grad():
        f(*leaves)
    assert calls.opened == [[Z]]


def test_a_training_step_makes_four_calls():
    energy, (x, y, w) = energy_and_leaves()
    case = get("paths-meet")
    f, _ = function_of_inputs(case, "auto")
    with Calls() as calls:
        energy = f(x, y, w).tanh().sum()
        (force,) = torch.autograd.grad(energy, y, create_graph=True)
        torch.autograd.grad(energy + force.square().sum(), w)
    assert len(calls.opened) == 4


def test_weights_are_trained_through_forces_as_by_a_dense_product():
    case = get("rows-edge")
    f, (x, y, w) = function_of_inputs(case, "auto")
    (force,) = torch.autograd.grad(f(x, y, w).tanh().sum(), y, create_graph=True)
    got = torch.autograd.grad(force.square().sum(), (x, w))
    g, _ = function_of_inputs(case, "reference")
    (expected_force,) = torch.autograd.grad(g(x, y, w).tanh().sum(), y, create_graph=True)
    expected = torch.autograd.grad(expected_force.square().sum(), (x, w))
    assert_close(got, expected, tolerance(case.program, torch.float64, 2, case.longest_sum))
