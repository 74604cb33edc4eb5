"""Weights from rows of a table, in Triton under its interpreter: run by test_triton.py with TRITON_INTERPRET=1."""

from __future__ import annotations

import pytest
import torch

from equikern import backends
from equikern.backends.gpu.launch import Table
from equikern.backends.triton import table
from equikern.errors import ShapeError
from equikern.nn import Convolution, RadialConvolution
from equikern.ops import evaluate, spline
from equikern.program import tabled
from equikern.testing import assert_close, derivatives, get, inputs, reference, tolerance, uvu_paths
from equikern.testing.cases import KNOTS


def check(case, dtype, order):
    got = derivatives(case.program, inputs(case, dtype), "triton", order)
    assert {g.dtype for g in got.values()} == {dtype}
    assert_close(got, reference(case, dtype, order), tolerance(case.program, dtype, order, case.longest_sum), str(case))


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("id", ["table-mul-5", "table-mixed", "table-edges", "table-no-edges"])
def test_orders_are_those_of_the_reference(id, order):
    check(get(id), torch.float64, order)


@pytest.mark.parametrize(("dtype", "order"), [(torch.float32, 1), (torch.bfloat16, 0)], ids=["f32", "bf16"])
def test_factors_are_summed_over_more_channels_than_a_warp_has(dtype, order):
    check(get("table-mul-33"), dtype, order)


@pytest.mark.parametrize("along", [[[0, 1, 2, 3]], [[0, 1, 2, 3], [1, 2]]], ids=["second", "third"])
def test_slots_of_derivatives_are_opened_together(along):
    case, program = get("table-mixed"), get("table-mixed").program
    for slots in along:
        program = program.along(slots)
    generator = torch.Generator().manual_seed(0)
    rows = {"edge": case.edges, "sender": case.nodes, "receiver": case.nodes, "knot": KNOTS}
    given = [torch.randn(rows[slot.row], slot.dim, generator=generator, dtype=torch.float64) for slot in program.slots]
    if len(along) == 1:
        given[7] = torch.empty(0, dtype=torch.float64)  # as where forces are trained: the table has no tangent
    index, open = list(inputs(case).index), [0, 1, 2, 3, 4]
    counts = [rows[program.slots[slot].row] for slot in open]
    got = backends.triton.contract(program, given, index, counts, open)
    assert_close(got, backends.reference.contract(program, given, index, counts, open), 1e-13)


def test_the_gradient_of_a_large_table_is_summed_in_parts_and_lost_knots_are_left_out(monkeypatch):
    monkeypatch.setattr(table, "MOST_SUMS", 1)
    dw, b = torch.randn(7, 70, dtype=torch.float64), torch.randn(7, 2, dtype=torch.float64)
    knot = torch.tensor([3, 0, 3, 1, -1, 4, 0])
    got = table.sum_rows(dw, b, Table((0, 2), knot), 6)
    expected = torch.zeros(6, 70, dtype=torch.float64)
    for e in (0, 1, 2, 3, 5, 6):
        for c, offset in enumerate((0, 2)):
            if knot[e] + offset < 6:
                expected[knot[e] + offset] += b[e, c] * dw[e]
    assert_close(got, expected, 1e-14)


@pytest.mark.parametrize("order", [0, 1, 2, 9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
def test_splines_and_their_derivatives_are_those_of_the_reference(order, dtype):
    r = torch.linspace(0.3, 5.4, 300, dtype=dtype)
    r[7] = float("nan")
    arguments = r, [0.5, 2.0, 4.5, 5.0], [5, 7, 3], order
    (b, knot), (expected, rows) = (spline._run(name, *arguments) for name in ("triton", "reference"))
    assert torch.equal(knot, rows)
    tolerance = 10 * torch.finfo(dtype).eps * expected.nan_to_num().abs().max()
    torch.testing.assert_close(b, expected, rtol=0, atol=float(tolerance), equal_nan=True)


@pytest.mark.parametrize("first", [-1, 5, 10**12])
def test_a_knot_whose_rows_are_not_in_the_table_gives_nan_and_no_fault(first):
    case = get("table-edges")
    given = inputs(case, torch.float32)
    program, operands = case.program, [*given.operands, torch.ones(case.edges, case.program.dims[4])]
    given.index[0][1] = {5: KNOTS}.get(first, first)
    for open in (4, 0, 1, 3):
        (result,) = backends.triton.contract(program, operands, list(given.index), [case.edges], [open])
        assert result[1].isnan().all() and result[2].isfinite().all()


class Smooth(torch.nn.Module):
    """Weights that a table of 32 intervals follows: lengths (E,) -> (E, width)."""

    def __init__(self, width):
        super().__init__()
        self.linear = torch.nn.Linear(2, width)

    def forward(self, r):
        return self.linear(torch.stack([r, r.square()], 1)) * (1 - r / 5).square().unsqueeze(1)


def test_a_convolution_with_a_table_trains_like_one_with_its_module():
    spec = uvu_paths("2x0e+3x1o", "0e+1o", 1, "natural")
    conv = RadialConvolution(*spec, radial=Smooth(Convolution(*spec).weight_numel), r_max=5.0, table=True).double()
    conv.eval()  # where the module trains, tables want more edges than the interpreter has time for
    edges, x = torch.randint(4, (2, 40)), torch.randn(4, 11, dtype=torch.float64)
    unit = torch.nn.functional.normalize(torch.randn(40, 3, dtype=torch.float64))
    vec = (unit * torch.linspace(0.6, 5.2, 40).unsqueeze(1)).requires_grad_()

    def step(name):
        with backends.backend(name):
            out = conv(x, vec, edges)
            (force,) = torch.autograd.grad(out.sin().sum(), vec, create_graph=True)
            loss = out.square().mean() + force.square().mean()
            return [out, force, *torch.autograd.grad(loss, [vec, *conv.parameters()])]

    assert conv.table(vec.detach().norm(dim=1), torch.float64) is not None
    assert_close(step("triton"), step("reference"), 1e-11)


def test_a_table_without_enough_rows_is_refused():
    case = get("table-mul-5")
    x, y, w, b = inputs(case).operands
    with pytest.raises(ShapeError, match=r"reads \(5, "), backends.backend("triton"):
        evaluate(case.program, (x, y, w[:4], b), inputs(case).index, case.nodes)


def test_a_table_that_no_path_reads_has_no_kernel():
    program = tabled(get("unweighted").program, (0, 2))
    assert backends.triton.supports(program, "cpu", torch.float32) == "no path reads the table"
