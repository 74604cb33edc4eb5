"""The gate: its values, its derivatives of every order, what it refuses."""

import itertools

import pytest
import torch

from equikern import backends
from equikern.errors import ProgramError, ShapeError
from equikern.ops.gate import ACTIVATIONS, Part, gate, gate_spec

# Gates before scalars, in two pieces; gated vectors before them.
PARTS = (
    Part(17, 3, "silu", 1.7),
    Part(20, 2, "tanh"),
    Part(0, 2, "silu", 1.7, gated=2, dim=3),
    Part(22, 1, "sigmoid", 0.5, gated=8, dim=5),
    Part(16, 1, "silu", 1.7, gated=13, dim=3),
)
SPEC = gate_spec(23, PARTS)


def plain(x, parts=PARTS):
    """Written out with autograd."""
    pieces = []
    for p in parts:
        f = p.scale * ACTIVATIONS[p.act](0, x[:, p.start : p.start + p.mul])
        if p.dim:
            f = (f[:, :, None] * x[:, p.gated : p.gated + p.mul * p.dim].reshape(len(x), p.mul, p.dim)).flatten(1)
        pieces.append(f)
    return torch.cat(pieces, 1)


def features(rows=4, columns=23):
    return torch.randn(rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_values_equal_the_plain_formula():
    torch.testing.assert_close(gate(SPEC, features()), plain(features()), rtol=0, atol=1e-14)


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_every_activation_has_its_derivatives(act):
    spec = gate_spec(9, (Part(0, 2, act, 1.3), Part(2, 1, act, 1.3, gated=3, dim=6)))
    x = features(3, 9).requires_grad_()
    assert torch.autograd.gradcheck(lambda a: gate(spec, a), x, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda a: gate(spec, a), x, fast_mode=True)


def awkward():
    """A gate of every activation with 1, 5 and 33 channels, and irreps of every size up to l = 4."""
    parts, first = [], 0
    for act, mul, dim in itertools.product(ACTIVATIONS, (1, 5, 33), (0, 1, 3, 5, 7, 9)):
        parts.append(Part(first, mul, act, 1.3, first + mul if dim else 0, dim))
        first += mul * (dim + 1)
    return gate_spec(first, tuple(parts)), first, sum(p.mul * (p.dim or 1) for p in parts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kernel_equals_the_reference(dtype):
    spec, columns, width = awkward()
    x, z, h = (3 * features(rows=9, columns=n).to(dtype) for n in (columns, width, columns))
    x[0], x[1], x[2, ::3] = 40.0, -40.0, 0.0
    for name, given in (("gate", (x,)), ("gate_backward", (x, z)), ("gate_double_backward", (x, z, h))):
        got = getattr(backends.gates["cpu"], name)(spec, *given)
        exact = getattr(backends.gates["reference"], name)(spec, *(a.double() for a in given))
        for a, b in zip(got, exact, strict=True) if isinstance(got, tuple) else [(got, exact)]:
            assert (a - b).abs().max() <= 4 * torch.finfo(dtype).eps * b.abs().max()


def test_nan_stays_in_its_columns_and_any_strides_are_read():
    x = features(rows=3)
    x[1, 0] = float("nan")
    spoilt = gate(SPEC, x).isnan()
    assert spoilt.sum() == 3 and spoilt[1, 5:8].all()  # the three columns that its gate multiplies
    turned = x[[0, 2]].t().contiguous().t()
    assert gate(SPEC, turned).equal(gate(SPEC, x)[[0, 2]])


def test_bits_do_not_depend_on_the_number_of_threads():
    spec, columns, _ = awkward()
    x, before = features(rows=64, columns=columns), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(gate(spec, x))
    finally:
        torch.set_num_threads(before)
    assert found[0].equal(found[1]) and found[0].equal(found[2])


def test_derivatives_up_to_the_third_order_equal_autograd():
    results = []
    for f in (lambda a: gate(SPEC, a), plain):
        x = features().requires_grad_()
        value = f(x).sin().sum()
        for _ in range(3):
            (slope,) = torch.autograd.grad(value, x, create_graph=True)
            results.append(slope.detach())
            value = slope.square().sum()
    for got, expected in zip(results[:3], results[3:], strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11)


def test_forward_mode_is_the_derivative():
    x, tangent = features(), features().flip(0)
    _, got = torch.func.jvp(lambda a: gate(SPEC, a), (x,), (tangent,))
    _, expected = torch.func.jvp(plain, (x,), (tangent,))
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("backend", backends.gates)
def test_the_ops_are_what_they_are_registered_as(backend):
    ops, x = torch.ops.equikern, features().requires_grad_()
    z, h = features(columns=19), features().flip(0)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    for op, args in (("gate", (x,)), ("gate_backward", (x, z)), ("gate_double_backward", (x, z, h))):
        torch.library.opcheck(getattr(ops, op).default, (SPEC, backend, *args), test_utils=tests)


def test_leading_dimensions_and_no_rows():
    x = features(6)
    torch.testing.assert_close(gate(SPEC, x.reshape(2, 3, 23)), gate(SPEC, x).reshape(2, 3, -1))
    assert gate(SPEC, x[:0]).shape == (0, 19)


def test_compiled_equals_eager():
    compiled = torch.compile(lambda x: gate(SPEC, x).square(), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(features()), gate(SPEC, features()).square())


def test_what_does_not_fit_is_refused():
    with pytest.raises(ShapeError, match="the gate reads"):
        gate(SPEC, features(columns=22))
    with pytest.raises(ProgramError, match="read each of 4 columns once"):
        gate_spec(4, (Part(0, 3, "silu"),))
    with pytest.raises(ProgramError, match="unknown activation 'relu'"):
        gate_spec(3, (Part(0, 3, "relu"),))
