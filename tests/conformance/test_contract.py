"""Every backend, case and dtype: value, gradient and double gradient against the reference in float64."""

from __future__ import annotations

import pytest
import torch

from equikern import backends
from equikern.errors import BackendError, ShapeError
from equikern.ops import plan
from equikern.program import CONVOLUTION, product
from equikern.testing import (
    CASES,
    Case,
    Inputs,
    assert_close,
    derivatives,
    get,
    inputs,
    reference,
    run,
    tagged,
    tolerance,
    uvu_paths,
)

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
BACKENDS = pytest.mark.parametrize("backend", backends.NAMES)
ALL = pytest.mark.parametrize("case", CASES, ids=str)


def check_order(case, backend, dtype, order):
    got = derivatives(case.program, inputs(case, dtype), backend, order)
    assert {g.dtype for g in got.values()} == {dtype}
    assert_close(got, reference(case, dtype, order), tolerance(case.program, dtype, order, case.longest_sum), str(case))


@ALL
@BACKENDS
@DTYPES
def test_value_is_that_of_the_reference(case, backend, dtype, require):
    require(backend, case.program, dtype)
    check_order(case, backend, dtype, order=0)


@ALL
@BACKENDS
@DTYPES
def test_gradient_is_that_of_the_reference(case, backend, dtype, require):
    require(backend, case.program, dtype)
    check_order(case, backend, dtype, order=1)


@ALL
@BACKENDS
@DTYPES
def test_double_gradient_is_that_of_the_reference(case, backend, dtype, require):
    require(backend, case.program, dtype)
    check_order(case, backend, dtype, order=2)


PRODUCTS = pytest.mark.parametrize("case", [case for case in CASES if case.program.family == "product"], ids=str)


@PRODUCTS
@DTYPES
def test_cpu_supports_every_product(case, dtype):
    assert backends.cpu.supports(case.program, "cpu", dtype) is None


@PRODUCTS
def test_cpu_supports_the_derivatives_of_every_product(case):
    program = case.program.along(range(case.program.output))
    assert backends.cpu.supports(program, "cpu", torch.float32) is None


@pytest.mark.parametrize("case", CASES, ids=str)
@DTYPES
def test_reference_supports_everything(case, dtype):
    assert backends.reference.supports(case.program, "cpu", dtype) is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["f16", "bf16"])
@pytest.mark.parametrize("case", tagged("channelwise", "small"), ids=str)
def test_half_types_accumulate_wider_on_the_reference(case, dtype):
    check_order(case, "reference", dtype, order=0)


def test_a_backend_refuses_what_it_does_not_support_by_name():
    case = get("linear-edge-weights")
    reason = backends.cpu.supports(case.program, "cpu", torch.float64)
    with pytest.raises(BackendError, match="cpu") as error:
        run(case.program, inputs(case), "cpu")
    assert reason in str(error.value)


@pytest.mark.parametrize("change", ["edges", "receivers"])
def test_a_stale_plan_is_refused_on_cpu(change):
    case = get("paths-meet")
    given = inputs(case)
    sender, receiver, ptr, order = given.index
    stale = (ptr, order[:-1]) if change == "edges" else (ptr[:-1], order)
    with pytest.raises(ShapeError, match="build a new Graph"):
        run(case.program, Inputs(given.operands, (sender, receiver, *stale), given.rows), "cpu")


def strided(a):
    """The same values, every second column of a wider tensor."""
    wide = a.new_full((a.shape[0], 2 * a.shape[1]), float("nan"))
    wide[:, ::2] = a
    return wide[:, ::2]


def turned(a):
    """The same values in column-major order."""
    return a.t().contiguous().t()


@pytest.mark.parametrize("view", [strided, turned])
@pytest.mark.parametrize("id", ["mul-5", "mul-33", "shared-mixed", "rows-edge", "mode-uvw"])
@pytest.mark.parametrize("order", [0, 1, 2])
@BACKENDS
def test_noncontiguous_operands_give_the_same_bits(id, view, order, backend, require):
    case = get(id)
    require(backend, case.program, torch.float32)
    given = inputs(case, torch.float32)
    viewed = Inputs(tuple(None if a is None else view(a) for a in given.operands), given.index, given.rows)
    got, expected = (derivatives(case.program, i, backend, order) for i in (viewed, given))
    assert all(torch.equal(got[name], expected[name]) for name in expected)


def test_a_noncontiguous_cotangent_gives_the_same_gradient(require):
    case = get("mul-33")
    x, y, w = (a.requires_grad_() for a in inputs(case, torch.float64).operands)
    given = inputs(case, torch.float64)
    z = run(case.program, Inputs((x, y, w), given.index, given.rows), "auto")
    c = torch.randn(z.shape, dtype=z.dtype)
    got = torch.autograd.grad(z, (x, y, w), strided(c), retain_graph=True)
    assert_close(got, torch.autograd.grad(z, (x, y, w), c), 0.0)


def test_an_expanded_cotangent_gives_the_same_gradient():
    case = get("paths-meet")
    given = inputs(case, torch.float64)
    x, y, w = (a.requires_grad_() for a in given.operands)
    z = run(case.program, Inputs((x, y, w), given.index, given.rows), "auto")
    got = torch.autograd.grad(z.sum(), (x, y, w), retain_graph=True)
    assert_close(got, torch.autograd.grad(z, (x, y, w), torch.ones_like(z)), 0.0)


def all_orders(case, backend, threads):
    torch.set_num_threads(threads)
    given = inputs(case, torch.float32)
    runs = [derivatives(case.program, given, backend, order) for order in (0, 1, 2)]
    return [a for run in runs for a in run.values()]


@pytest.mark.parametrize("case", tagged("channelwise"), ids=str)
def test_bits_on_cpu_do_not_depend_on_threads_or_on_the_call(case, threads):
    first, *others = (all_orders(case, "cpu", n) for n in (1, 2, 2, 1))
    assert all(torch.equal(a, b) for other in others for a, b in zip(other, first, strict=True))


@pytest.mark.parametrize("id", ["paths-meet", "shared-mixed", "mode-uvw", "linear"])
def test_bits_of_the_reference_do_not_depend_on_the_call(id, threads):
    first, second = (all_orders(get(id), "reference", 1) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(second, first, strict=True))


@pytest.mark.parametrize(
    "id",
    [
        *("mace-conv", "shared-weights", "mul-33", "ir-mul", "rows-edge", "rows-edge-to-receiver"),
        *("table-mace", "table-mul-33"),
    ],
)
def test_bits_do_not_depend_on_threads_for_many_edges(id, threads):
    case = get(id).sized(edges=1500 if "mace" in id else 6000, degree=25)
    one, two = (all_orders(case, "cpu", n) for n in (1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("order", [1, 2])
def test_weight_gradients_too_large_for_the_cache_are_those_of_the_reference(order):
    # 64 weights an edge in float32: 18 MB, more than the kernels keep in the caches
    case = get("schnet-64").sized(edges=70000, degree=50)
    check_order(case, "cpu", torch.float32, order)


@DTYPES
def test_weight_gradients_too_large_for_the_cache_have_the_bits_of_small_ones(dtype):
    # of 3, 7 and 9 components: a path's gradient is whole after one pass over its channels, or after several
    case = Case("wide", product(*uvu_paths("32x1o+32x3o+32x4e", "1o+2e", 4), rows=CONVOLUTION), nodes=20, degree=10)
    few, copies = inputs(case, dtype), 40
    x, y, w = few.operands
    sender, receiver = few.index[:2]
    index = (sender.repeat(copies), receiver.repeat(copies))
    operands = (x, y.repeat(copies, 1), w.repeat(copies, 1))
    assert operands[2].nbytes > 16 << 20
    many = Inputs(operands, (*index, *plan(*index, few.rows, few.rows)), few.rows)
    got, expected = (derivatives(case.program, given, "cpu", 1)["d/dw"] for given in (many, few))
    assert torch.equal(got, expected.repeat(copies, 1))


@BACKENDS
@pytest.mark.parametrize("order", [0, 1])
def test_nan_reaches_only_the_receivers_that_see_it(backend, order, require):
    case = get("mul-33")
    require(backend, case.program, torch.float32)
    given = inputs(case, torch.float32)
    poisoned = given.to(torch.float32)
    poisoned.operands[1][0] = float("nan")
    receiver, sender = int(given.index[1][0]), int(given.index[0][0])
    got, clean = (derivatives(case.program, i, backend, order) for i in (poisoned, given))
    (hit, rows) = (receiver, got["z"]) if order == 0 else (sender, got["d/dx"])
    expected = clean["z" if order == 0 else "d/dx"]
    others = torch.arange(len(rows)) != hit
    assert rows[hit].isnan().any() and torch.equal(rows[others], expected[others])


@BACKENDS
def test_subnormal_numbers_survive(backend, require):
    case = get("rows-edge")
    require(backend, case.program, torch.float32)
    x, y, w = inputs(case, torch.float32).operands
    one, tiny = (
        run(case.program, Inputs((torch.full_like(x, a), y, w), (), case.edges), backend) for a in (1.0, 1e-39)
    )
    assert tiny[one.abs() > 1e-3].abs().amin() > 0


@BACKENDS
def test_operands_are_not_changed_and_outputs_are_new(backend, require):
    case = get("mul-5")
    require(backend, case.program, torch.float32)
    given = inputs(case, torch.float32)
    z = run(case.program, given, backend)
    kept = inputs(case, torch.float32)
    assert z.is_contiguous() and all(torch.equal(a, b) for a, b in zip(given.operands, kept.operands, strict=True))
