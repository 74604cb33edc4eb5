"""The CPU's products in connection modes where blocks, pieces and parts of the rows end, and their sums of summands."""

from __future__ import annotations

import pytest
import torch

from equikern import backends
from equikern.backends import cpu
from equikern.program import SHARED, Irreps, Rows, product
from equikern.testing import Case, assert_close, derivatives, inputs, reference, tolerance
from equikern.testing.cases import fully_connected

pytestmark = pytest.mark.skipif(not cpu.available(), reason="the extension is not built")


def paths(x, y, z, *modes):
    """Irreps, and a path of each mode into its own segment of z."""
    return Irreps(x), Irreps(y), Irreps(z), [(a, b, n, *mode) for n, (a, b, *mode) in enumerate(modes)]


KEPT = (1, 0, "uvu", True), (0, 1, "uvv", True), (1, 1, "uvuv", True), (0, 0, "uvuv", False)
EQUAL = (0, 0, "uuw", True), (1, 1, "uuu", True), (1, 1, "uuw", False), (0, 0, "uuu", False)
# Pieces that end within channels of x and of y, matrices beside vectors and strips, channels that outnumber a run.
SPECS = {
    "lanes-of-x": fully_connected("33x0e+5x1o", "3x0e+1o", "17x0e+4x1o"),
    "lanes-of-y": fully_connected("3x0e+1o", "70x0e+9x1o", "33x0e+70x1o"),
    "equal": paths("70x0e+9x1o", "70x0e+9x1o", "18x0e+9x1e+1x0e+70x0e", *EQUAL),
    "kept": paths("13x0e+9x1o", "7x0e+3x1o", "9x1o+3x1o+27x2e+91x0e", *KEPT),
    "upper": paths("13x1o", "13x1o", "78x1e+21x1e", (0, 0, "uvu<v", True), (0, 0, "u<vw", True)),
}
WEIGHTS = pytest.mark.parametrize("weights", [SHARED, "edge"])
ROWS = [1, 15, 33, 300]  # fewer than a vector, a block and one more, more than a part


def case(name, weights, rows, layout="mul_ir"):
    return Case(name, product(*SPECS[name], rows=Rows(w=weights), layout=layout), nodes=rows, degree=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("rows", ROWS)
@WEIGHTS
@pytest.mark.parametrize("name", SPECS)
def test_derivatives_are_those_of_the_reference(name, weights, rows, dtype):
    case_ = case(name, weights, rows, "mul_ir" if rows % 2 else "ir_mul")
    for order in (0, 1, 2):
        got = derivatives(case_.program, inputs(case_, dtype), "cpu", order)
        tol = tolerance(case_.program, dtype, order, case_.longest_sum)
        assert_close(got, reference(case_, dtype, order), tol, f"{name} of order {order}")


@pytest.mark.parametrize("absent", [None, 0, 2, 3, 4, 6, 7])
@WEIGHTS
@pytest.mark.parametrize("name", SPECS)
def test_all_slots_of_a_derivative_open_at_once(name, weights, absent):
    check_slots(case(name, weights, 5).program.along((0, 1, 2, 3)), absent)


@pytest.mark.parametrize("again", [(0,), (1,), (2,), (3,), (0, 2), (0, 1, 2, 3)], ids=str)
@pytest.mark.parametrize("name", SPECS)
def test_derivatives_that_no_longer_read_a_slot_are_those_of_the_reference(name, again):
    check_slots(case(name, SHARED, 5).program.along((0, 1, 2)).along(again))


def check_slots(program, absent=None):
    made = torch.Generator().manual_seed(0)
    rows = [1 if kind == SHARED else 5 for kind in program.rows]
    sizes = zip(rows, program.dims, strict=True)
    operands = [torch.randn(size, generator=made, dtype=torch.float64) for size in sizes]
    if absent is not None:
        operands[absent] = torch.empty(0, dtype=torch.float64)
    open = list(range(len(rows)))
    got, expected = (backends.get(name).contract(program, operands, [], rows, open) for name in ("cpu", "reference"))
    assert_close(dict(zip(program.names, got, strict=True)), dict(zip(program.names, expected, strict=True)), 1e-13)


@WEIGHTS
@pytest.mark.parametrize("name", SPECS)
def test_bits_do_not_depend_on_threads_or_on_the_call(name, weights):
    case_ = case(name, weights, 700)

    def run(count):
        torch.set_num_threads(count)
        return derivatives(case_.program, inputs(case_, torch.float32), "cpu", 2).values()

    first, *others = (list(run(count)) for count in (1, 2, 3, 1))
    assert all(torch.equal(a, b) for other in others for a, b in zip(other, first, strict=True))
