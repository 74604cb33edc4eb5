"""The Triton backend under its interpreter, on CPU tensors: run by test_triton.py with TRITON_INTERPRET=1."""

from __future__ import annotations

import pytest
import torch

from equikern import backends
from equikern.backends import parts, staged
from equikern.backends._radial import parse_radial
from equikern.errors import BackendError
from equikern.ops import evaluate, plan
from equikern.ops.radial_embedding import functions
from equikern.program import painn_message, schnet_message
from equikern.testing import SWEEPS, assert_close, derivatives, get, inputs, reference, tolerance

RADIAL = [
    "radial bessel 5 4.0 0.7 polynomial 6",
    "radial bessel 8 4.0 1.0 cosine 2",
    "radial gaussian 6 4.0 2.0 none 2",
]


def check(case, dtype, order):
    got = derivatives(case.program, inputs(case, dtype), "triton", order)
    assert {g.dtype for g in got.values()} == {dtype}
    assert_close(got, reference(case, dtype, order), tolerance(case.program, dtype, order, case.longest_sum), str(case))


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("id", SWEEPS)
def test_orders_are_those_of_the_reference(id, order):
    check(get(id), torch.float64, order)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=["f32", "f16", "bf16"])
def test_narrow_types_accumulate_in_float32(dtype):
    check(get("paths-meet"), dtype, 0)


def operands(program, edges, nodes):
    """Every slot of a program drawn, and the index tensors with both plans."""
    rows = {"edge": edges, "sender": nodes, "receiver": nodes}
    drawn = [torch.randn(rows[slot.row], slot.dim, dtype=torch.float64) for slot in program.slots]
    sender, receiver = torch.randint(nodes, (2, edges))
    plans = [*plan(sender, receiver, nodes, nodes), *plan(receiver, sender, nodes, nodes)]
    return drawn, [sender, receiver, *plans], rows


def check_opening(program, open, edges=7, nodes=4):
    given, index, rows = operands(program, edges, nodes)
    counts = [rows[program.slots[s].row] for s in open]
    got = backends.triton.contract(program, given, index, counts, open)
    expected = backends.reference.contract(program, given, index[:2], counts, open)
    assert_close(got, expected, 1e-13)


MESSAGES = pytest.mark.parametrize("program", [schnet_message(40), painn_message(33)], ids=["schnet", "painn"])


@MESSAGES
@pytest.mark.parametrize("open", [[0], [0, 1, 2], [0, 3], [1, 3], [0, 1, 2, 3]], ids=str)
def test_slots_are_opened_together(program, open):
    check_opening(program, open)


@MESSAGES
def test_the_double_backward_opens_all_slots(program):
    check_opening(program.along([0, 1, 2]), [0, 1, 2, 3])


def test_higher_orders_are_sums_of_sweeps():
    check_opening(get("mixed-weights").program.along([0, 1, 2]).along([0, 2]), [0, 1, 2])


def test_first_and_second_derivatives_are_those_of_finite_differences():
    program = painn_message(2)
    given, index, rows = operands(program, edges=3, nodes=2)
    x, y, w = (a.requires_grad_() for a in given[:3])

    def f(*leaves):
        with backends.backend("triton"):
            return evaluate(program, leaves, index, rows["receiver"])

    assert torch.autograd.gradcheck(f, (x, y, w), fast_mode=True)
    assert torch.autograd.gradgradcheck(f, (x, y, w), fast_mode=True)


def test_opcheck_passes():
    program = painn_message(2)
    given, index, rows = operands(program, edges=3, nodes=2)
    given = [a.requires_grad_() for a in given[:3]]
    arguments = (program.text, "triton", [*given, torch.empty(0)], index, [rows["receiver"]], [3])
    torch.library.opcheck(torch.ops.equikern.contract.default, arguments)


@pytest.mark.parametrize("spec", ["sh 0,1,2,3 component normalize", "sh 2,1,1 norm raw", "sh 0 integral normalize"])
def test_harmonics_and_their_derivatives_are_those_of_the_reference(spec):
    ours, theirs = backends.harmonics["triton"], backends.harmonics["reference"]
    vec, h = torch.randn(2, 130, 3, dtype=torch.float64)
    vec[:2] = torch.tensor([[0.0] * 3, [1e-200, 2e-200, 0.0]])
    z = torch.randn_like(theirs.harmonics(spec, vec))
    assert_close(ours.harmonics(spec, vec), theirs.harmonics(spec, vec), 1e-14)
    assert_close(ours.harmonics_backward(spec, vec, z)[2:], theirs.harmonics_backward(spec, vec, z)[2:], 1e-14)
    got, expected = (b.harmonics_double_backward(spec, vec, z, h) for b in (ours, theirs))
    assert_close([a[2:] for a in got], [a[2:] for a in expected], 1e-14)
    assert not any(a[0].any() for a in got) or "raw" in spec


@pytest.mark.parametrize("spec", RADIAL)
def test_radial_embeddings_and_their_derivatives_are_those_of_the_reference(spec):
    r = torch.cat([torch.tensor([0.0, 1e-9, 0.6, 3.9999, 5.0]), torch.rand(150) * 4]).double()
    found = []
    for f in (lambda r: torch.ops.equikern.radial(spec, "triton", r, 0), lambda r: functions(parse_radial(spec), r)):
        leaf = r.clone().requires_grad_()
        orders = [f(leaf)]
        orders.append(torch.autograd.grad(orders[0].sin().sum(), leaf, create_graph=True)[0])
        orders.append(torch.autograd.grad(orders[1].square().sum(), leaf, create_graph=True)[0])
        orders.append(torch.autograd.grad(orders[2].square().sum(), leaf)[0])
        found.append([o.detach() for o in orders])
    for order, (got, expected) in enumerate(zip(*found, strict=True)):
        assert_close(got, expected, 1e-11, f"{spec} {order}")
        assert not got[4].any() or "none" in spec
    inside = torch.tensor([0.3, 1.7, 3.0], dtype=torch.float64, requires_grad=True)
    op = torch.ops.equikern.radial
    assert torch.autograd.gradcheck(lambda r: op(spec, "triton", r, 0), inside, check_forward_ad=True)
    torch.library.opcheck(op.default, (spec, "triton", inside, 0))
    with pytest.raises(BackendError, match="up to order 3"):
        op(spec, "triton", inside, 4)


def test_a_row_of_x_that_is_not_there_gives_nan_and_no_fault():
    case = get("rows-sender-to-edge")
    given = inputs(case, torch.float32)
    given.index[0][1] = 10**9
    program, operands = case.program, [*given.operands, torch.empty(0)]
    (z,) = backends.triton.contract(program, operands, list(given.index), [case.edges], [3])
    assert z[1].isnan().all() and z[0].isfinite().all()


@pytest.mark.parametrize("id", ["se3-8", "uvw-awkward", "modes-mixed-shared"])
def test_products_that_mix_channels_sweep_what_they_can(id, monkeypatch):
    case, text = get(id), get(id).program.text
    monkeypatch.setattr(backends.cpu, "supports", lambda *_: "none")
    swept = [part.program for part in parts.parts(text) if part.swept] or [staged.stage(text).program]
    assert all(backends.triton.supports(program, "cpu", torch.float32) is None for program in swept)
    got = derivatives(case.program, inputs(case, torch.float32), "matmul", 1)
    assert_close(got, reference(case, torch.float32, 1), tolerance(case.program, torch.float32, 1, case.longest_sum))
