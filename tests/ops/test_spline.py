"""The spline op: rows and factors of a length, and their derivatives."""

import pytest
import torch

import equikern
from equikern.errors import ShapeError
from equikern.ops.spline import OFFSETS, spline

BREAKS, INTERVALS = [0.5, 2.0, 4.5, 5.0], [5, 7, 3]
op = torch.ops.equikern.spline.default


def lengths(n=60, dtype=torch.float64):
    return torch.linspace(0.3, 5.4, n, dtype=dtype)


@pytest.mark.parametrize("order", range(9))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_kernel_agrees_with_the_reference(order, dtype):
    r = lengths(dtype=dtype)
    r[7] = float("nan")
    (b, knot), (expected, rows) = op("cpu", r, BREAKS, INTERVALS, order), op("reference", r, BREAKS, INTERVALS, order)
    assert torch.equal(knot, rows)
    torch.testing.assert_close(b, expected, rtol=1e-5 if dtype == torch.float32 else 1e-12, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_equal_coefficients_give_their_value_and_knots_stay_in_the_table(backend):
    with equikern.backend(backend):
        b, knot = spline(lengths(), BREAKS, INTERVALS)
    table = torch.tensor([0.0, 7.0], dtype=torch.float64).repeat(sum(INTERVALS) + 6 * len(INTERVALS))
    value = (b * table[knot[:, None] + torch.tensor(OFFSETS)]).sum(1)
    torch.testing.assert_close(value, torch.full((60,), 7.0, dtype=torch.float64))
    assert int(knot.min()) == 0 and int(knot.max()) + OFFSETS[-1] == len(table) - 2


def test_derivatives_pass_numerical_checks():
    r = (torch.rand(12, dtype=torch.float64) * 4.4 + 0.55).requires_grad_()
    factors = lambda r: spline(r, BREAKS, INTERVALS)[0]  # noqa: E731
    assert torch.autograd.gradcheck(factors, r)
    assert torch.autograd.gradgradcheck(factors, r)
    _, along = torch.func.jvp(factors, (r.detach(),), (torch.ones_like(r),))
    expected = op("reference", r.detach(), BREAKS, INTERVALS, 1)[0]
    torch.testing.assert_close(along, expected)


def test_the_value_at_the_last_break_holds_beyond_it():
    r = torch.tensor([5.0, 5.3, 60.0], requires_grad=True)
    b, knot = spline(r, BREAKS, INTERVALS)
    assert torch.equal(b[0], b[1]) and torch.equal(b[0], b[2]) and len(knot.unique()) == 1
    (slope,) = torch.autograd.grad(b[1:].square().sum(), r)
    assert torch.equal(slope, torch.zeros(3))


def test_nan_gives_nan_and_no_rows_outside():
    b, knot = spline(torch.tensor([float("nan"), float("inf"), -float("inf")]), BREAKS, INTERVALS)
    assert bool(b[0].isnan().all()) and 0 <= int(knot.min()) <= int(knot.max()) <= 2 * sum(INTERVALS) + 24


def test_opcheck():
    torch.library.opcheck(op, ("cpu", lengths().requires_grad_(), BREAKS, INTERVALS, 0))


@pytest.mark.parametrize(
    ("r", "breaks", "intervals"),
    [
        (torch.ones(2, 2), BREAKS, INTERVALS),
        (torch.ones(2, dtype=torch.int64), BREAKS, INTERVALS),
        (torch.ones(2), [0.0, 0.0], [3]),
        (torch.ones(2), [0.0, 1.0], [0]),
        (torch.ones(2), [0.0, 1.0], [1, 2]),
    ],
)
def test_bad_input_is_refused(r, breaks, intervals):
    with pytest.raises(ShapeError, match="spline"):
        spline(r, breaks, intervals)
