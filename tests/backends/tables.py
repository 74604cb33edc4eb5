"""What tables must give on the backends for GPUs: in Triton under its interpreter, in CUDA C++ on the host."""

from __future__ import annotations

import torch

from equikern import backends
from equikern.backends.gpu import table
from equikern.backends.gpu.launch import Table
from equikern.nn import Convolution, RadialConvolution
from equikern.ops import spline
from equikern.testing import assert_close, derivatives, get, inputs, reference, tolerance, uvu_paths
from equikern.testing.cases import KNOTS


def check_orders(backend, case, dtype, order):
    """Value, gradients or second gradients of a case are those of the reference."""
    got = derivatives(case.program, inputs(case, dtype), backend, order)
    assert {g.dtype for g in got.values()} == {dtype}
    assert_close(got, reference(case, dtype, order), tolerance(case.program, dtype, order, case.longest_sum), str(case))


def check_slots(backend, along):
    """All slots of a derivative of the form are opened in one call."""
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
    got = backends.get(backend).contract(program, given, index, counts, open)
    assert_close(got, backends.reference.contract(program, given, index, counts, open), 1e-13)


def check_sum_of_rows(sum_knots):
    """The gradient of a table is summed in parts of its columns, and knots that are not there are left out."""
    dw, b = torch.randn(7, 70, dtype=torch.float64), torch.randn(7, 2, dtype=torch.float64)
    knot = torch.tensor([3, 0, 3, 1, -1, 4, 0])
    got = table.sum_rows(sum_knots, dw, b, Table((0, 2), knot), 6)
    expected = torch.zeros(6, 70, dtype=torch.float64)
    for e in (0, 1, 2, 3, 5, 6):
        for c, offset in enumerate((0, 2)):
            if knot[e] + offset < 6:
                expected[knot[e] + offset] += b[e, c] * dw[e]
    assert_close(got, expected, 1e-14)


def check_spline(backend, order, dtype):
    """Factors and knots of lengths, beyond the ends and NaN too, are those of the reference."""
    r = torch.linspace(0.3, 5.4, 300, dtype=dtype)
    r[7] = float("nan")
    arguments = r, [0.5, 2.0, 4.5, 5.0], [5, 7, 3], order
    (b, knot), (expected, rows) = (spline._run(name, *arguments) for name in (backend, "reference"))
    assert torch.equal(knot, rows)
    allowed = 10 * torch.finfo(dtype).eps * expected.nan_to_num().abs().max()
    torch.testing.assert_close(b, expected, rtol=0, atol=float(allowed), equal_nan=True)


def check_lost_knot(backend, id, first):
    """A knot whose rows are not in the table gives NaN, and no fault."""
    case = get(id)
    given = inputs(case, torch.float32)
    program, operands = case.program, [*given.operands, torch.ones(case.edges, case.program.dims[4])]
    given.index[0][1] = {5: KNOTS}.get(first, first)
    for open in (4, 0, 1, 3):
        (result,) = backends.get(backend).contract(program, operands, list(given.index), [case.edges], [open])
        assert result[1].isnan().all() and result[2].isfinite().all()


class Smooth(torch.nn.Module):
    """Weights that a table of 32 intervals follows: lengths (E,) -> (E, width)."""

    def __init__(self, width):
        super().__init__()
        self.linear = torch.nn.Linear(2, width)

    def forward(self, r):
        return self.linear(torch.stack([r, r.square()], 1)) * (1 - r / 5).square().unsqueeze(1)


def check_training(backend):
    """A convolution with a table trains like one with its module."""
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
    assert_close(step(backend), step("reference"), 1e-11)
