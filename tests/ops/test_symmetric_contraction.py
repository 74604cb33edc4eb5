"""The symmetric contraction: kernel against reference, reference against its formula, derivatives to third order."""

from __future__ import annotations

from itertools import product

import pytest
import torch

import equikern
from equikern.errors import BackendError, ProgramError, ShapeError
from equikern.ops.symmetric_contraction import symmetric_contraction
from equikern.program.symmetric import basis, parse_symmetric, symmetric
from equikern.testing import SYMMETRIC, NoWaits, assert_close, symmetric_derivatives, symmetric_inputs, tolerance

op = torch.ops.equikern.symmetric_contraction.default
# torch itself calls its deprecated torch.jit.script when forward mode is first used.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("id", SYMMETRIC)
def test_the_kernel_agrees_with_the_reference_to_third_order(id, dtype):
    size = len(SYMMETRIC[id][0].terms)  # the reference walks through them one by one
    order = 1 if size > 200 else 2 if size > 60 else 3
    got = symmetric_derivatives(id, dtype, "cpu", order, dtype)
    expected = symmetric_derivatives(id, torch.float64, "reference", order, dtype)
    assert_close(got, expected, tolerance(SYMMETRIC[id][0], dtype, order, max(SYMMETRIC[id][1], 1)))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("id", ["ir-mul", "linear", "to-channels"])
def test_the_value_is_the_sum_over_terms(id, backend):
    program, nodes = SYMMETRIC[id]
    x, weight, species = symmetric_inputs(id, torch.float64)
    with equikern.backend(backend):
        z = symmetric_contraction(program, x, weight, species)
    columns = [lambda n, c, at=at: at[0][n] + c * at[1][n] for at in (program.columns_x, program.columns_z)]
    expected = torch.zeros_like(z)
    for n, c in product(range(nodes), range(program.channels)):
        for t, (k, monomial) in enumerate(program.terms):
            value = weight[species[n], t, c]
            for i in monomial:
                value = value * x[n, columns[0](i, c)]
            expected[n, columns[1](k, c)] += value
    assert_close(z, expected, 1e-13)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_derivatives_are_those_of_finite_differences_in_both_modes(backend):
    program = symmetric("2x0e+2x1o", "2x0e+2x1o", 3)
    x, weight = torch.randn(3, 8, dtype=torch.float64), torch.randn(2, len(program.terms), 2, dtype=torch.float64)
    species = torch.tensor([0, 1, 1])
    with equikern.backend(backend):
        f = lambda x, w: symmetric_contraction(program, x, w, species)  # noqa: E731
        leaves = x.requires_grad_(), weight.requires_grad_()
        assert torch.autograd.gradcheck(f, leaves, check_forward_ad=True, fast_mode=True)
        assert torch.autograd.gradgradcheck(f, leaves, fast_mode=True)


def test_opcheck():
    program = symmetric("3x0e+3x1o", "3x0e", 2)
    x, w = torch.randn(4, 12, requires_grad=True), torch.randn(2, len(program.terms), 3, requires_grad=True)
    species = torch.tensor([0, 1, 1, 0])
    torch.library.opcheck(op, (program.text, "cpu", [species], 2, [w, x.new_empty(0), x], [1]))
    torch.library.opcheck(op, (program.text, "cpu", [species], 2, [w, torch.randn(4, 3), x], [0, 2]))


@pytest.mark.parametrize("threads", [1, 3])
def test_the_result_does_not_depend_on_threads(threads):
    torch.set_num_threads(threads)
    got = symmetric_derivatives("many-nodes", torch.float32, "cpu", 2, torch.float32)
    torch.set_num_threads(1)
    assert all(map(torch.equal, got, symmetric_derivatives("many-nodes", torch.float32, "cpu", 2, torch.float32)))


def test_only_what_is_asked_for_is_computed(monkeypatch):
    from equikern.backends import cpu_symmetric

    opened, run = [], cpu_symmetric.symmetric_contraction

    def record(text, species, operands, results):
        opened.append([n for n, r in enumerate(results) if r is not None])
        run(text, species, operands, results)

    monkeypatch.setattr(cpu_symmetric, "symmetric_contraction", record)
    x, weight, species = symmetric_inputs("one-node", torch.float64)
    z = symmetric_contraction(SYMMETRIC["one-node"][0], x.requires_grad_(), weight.requires_grad_(), species)
    torch.autograd.grad(z.sum(), x)
    assert opened == [[1], [2]]


def test_inputs_that_are_not_contiguous():
    program, _ = SYMMETRIC["ir-mul"]
    x, weight, species = symmetric_inputs("ir-mul", torch.float64)
    expected = symmetric_contraction(program, x, weight, species)
    got = symmetric_contraction(program, x.t().contiguous().t(), weight.flip(0).flip(0), species.repeat(2)[::2][:9])
    again = symmetric_contraction(program, x, weight, species.repeat_interleave(2)[::2])
    assert got.shape == expected.shape and torch.equal(again, expected)


def test_nan_stays_in_its_node():
    x, weight, species = symmetric_inputs("ir-mul", torch.float64)
    x[2] = float("nan")
    z = symmetric_contraction(SYMMETRIC["ir-mul"][0], x, weight, species)
    assert z[2].isnan().any() and not z[[n for n in range(9) if n != 2]].isnan().any()


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("wrong", [-1, 3, 2**40])
def test_a_species_out_of_range_is_refused(wrong, backend):
    x, weight, species = symmetric_inputs("ir-mul", torch.float64)
    species[4] = wrong
    with equikern.backend(backend), pytest.raises(BackendError, match="species out of range"):
        symmetric_contraction(SYMMETRIC["ir-mul"][0], x, weight, species)


def test_where_no_value_is_waited_for_a_species_out_of_range_gives_nan():
    program, nodes = SYMMETRIC["ir-mul"]
    x, weight, species = symmetric_inputs("ir-mul", torch.float64)
    species[4] = 3
    there = torch.arange(nodes) != 4
    leaves = x.requires_grad_(), weight.requires_grad_()
    with equikern.backend("reference"):
        expected = symmetric_contraction(program, x[there], weight, species[there])
        right = torch.autograd.grad(expected.sum(), leaves)
        with NoWaits():
            z = symmetric_contraction(program, *leaves, species)
            dx, dw = torch.autograd.grad(z.sum(), leaves)
    assert z[4].isnan().all() and dx[4].isnan().all()
    assert_close([z[there], dx[there], dw], [expected, right[0][there], right[1]], 1e-13)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, w, s: (x[:, :-1], w, s), "operand 'x' has shape"),
        (lambda x, w, s: (x[:-1], w, s), "operand 'x' has shape"),
        (lambda x, w, s: (x, w[:, :-1], s), "operand 'w' has shape"),
        (lambda x, w, s: (x, w[0], s), "weight"),
        (lambda x, w, s: (x.float(), w, s), "one dtype"),
        (lambda x, w, s: (x, w, s.int()), "species"),
        (lambda x, w, s: (x, w, s[None]), "species"),
        (lambda x, w, s: (x.long(), w, s), "floating"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(change, message):
    given = change(*symmetric_inputs("ir-mul", torch.float64))
    with pytest.raises(ShapeError, match=message):
        symmetric_contraction(SYMMETRIC["ir-mul"][0], *given)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("2x0e+3x1o", "2x0e", 2), "same multiplicity"),
        (("2x0e", "3x0e", 2), "same multiplicity"),
        (("2x0e", "", 2), "same multiplicity"),
        (("2x4e", "2x0e", 2), "l <= 3"),
        (("2x0e", "2x0e", 5), "1 to 4"),
        (("2x0e", "2x0e", 0), "1 to 4"),
    ],
)
def test_impossible_contractions_are_refused(arguments, message):
    with pytest.raises(ProgramError, match=message):
        symmetric(*arguments)


@pytest.mark.parametrize("id", SYMMETRIC)
def test_a_text_gives_back_its_program(id):
    program = SYMMETRIC[id][0]
    assert parse_symmetric(program.text) == program and parse_symmetric(program.along().text) == program.along()


def test_the_basis_has_as_many_polynomials_as_there_are():
    # Counted by characters: invariants of degree 1, 2, 3 of 0e+1o+2e+3o, then vectors.
    found = basis(symmetric("1x0e+1x1o+1x2e+1x3o", "1x0e+1x1o", 3).text)
    counts = [int((found.block == n).sum()) for n in range(len(found.blocks))]
    assert dict(zip(found.blocks, counts, strict=True)) == {
        (0, 1): 1, (0, 2): 4, (0, 3): 8, (1, 1): 1, (1, 2): 3, (1, 3): 12,
    }  # fmt: skip
