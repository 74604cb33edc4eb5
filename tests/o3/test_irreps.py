"""`o3.Irrep` and `o3.Irreps` against e3nn's, and their use in each other's place."""

from __future__ import annotations

import copy
import itertools
import pickle
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from equikern import o3, program
from equikern.errors import ProgramError

pytest.importorskip("e3nn", minversion="0.6", reason="e3nn 0.6 is what these irreps are compared with")
from e3nn import o3 as theirs

IR = st.tuples(st.integers(0, 4), st.sampled_from([-1, 1]))
IRREPS = st.lists(st.tuples(st.integers(0, 4), IR), max_size=6)
TEXTS = ["16x0e+4x1o", "1o", "2y + 3x1y", "0x2e+1e", "", " 2x0e +1x1o", "1o+2e+1o+0o+0e"]


# --- reading and writing


@pytest.mark.parametrize("text", TEXTS)
def test_texts_are_read_and_written_as_in_e3nn(text: str) -> None:
    assert str(o3.Irreps(text)) == repr(o3.Irreps(text)) == str(theirs.Irreps(text))


def test_the_text_of_irreps_names_each_multiplicity() -> None:
    assert str(o3.Irreps("16x0e+4x1o")) == "16x0e+4x1o"


@given(IRREPS)
def test_equality_and_hash_hold_across_libraries(entries: Any) -> None:
    ours = o3.Irreps(entries)
    for other in (theirs.Irreps(entries), program.Irreps(entries), o3.Irreps(str(ours)), theirs.Irreps(ours)):
        assert ours == other and hash(ours) == hash(other) and str(ours) == str(other)
    assert o3.Irreps(theirs.Irreps(entries)) == o3.Irreps(program.Irreps(entries)) == ours


@pytest.mark.parametrize("read", [theirs.Irreps, program.Irreps, o3.Irreps])
def test_whatever_is_read_holds_our_irreps(read: Any) -> None:
    irreps = o3.Irreps(read("2x0e+1o"))
    assert all(type(ir) is o3.Irrep for _, ir in irreps)
    assert all(type(made) is o3.Irreps for made in (irreps[:1], irreps + "1o", 2 * irreps, irreps.simplify()))


@pytest.mark.parametrize(
    "entries", [["1o", "2e"], [(2, "1o")], [(2, (1, -1)), "3x2e"], [theirs.Irrep("1o")], theirs.Irrep("1o")]
)
def test_entries_of_every_form_are_read(entries: Any) -> None:
    expected = {"['1o', '2e']": "1o+2e", "[(2, '1o')]": "2x1o", "[(2, (1, -1)), '3x2e']": "2x1o+3x2e"}.get(
        str(entries), "1o"
    )
    assert o3.Irreps(entries) == o3.Irreps(expected)


@pytest.mark.parametrize(
    "bad", ["1z", "x1o", "-1x0e", [(1.5, "1o")], [(-1, "1o")], 3, [3], [(32, 1)], "1o+", ["2x1o+1e"]]
)
def test_what_is_no_irreps_is_refused(bad: Any) -> None:
    with pytest.raises(ProgramError):
        o3.Irreps(bad)


@pytest.mark.parametrize("bad", ["1", "o", "2x1o", (1, 2), (-1, 1), 3, (1, 0)])
def test_what_is_no_irrep_is_refused(bad: Any) -> None:
    with pytest.raises(ProgramError):
        o3.Irrep(bad)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda a: pickle.loads(pickle.dumps(a))], ids=["deepcopy", "pickle"])
def test_copies_are_equal_and_of_the_same_type(copied: Any) -> None:
    irreps = copied(o3.Irreps("2x0e+1o"))
    assert irreps == o3.Irreps("2x0e+1o") and type(irreps) is o3.Irreps and type(irreps[1].ir) is o3.Irrep


# --- algebra


@given(IRREPS, IR)
def test_properties_agree_with_e3nn(entries: Any, ir: Any) -> None:
    a, b = o3.Irreps(entries), theirs.Irreps(entries)
    assert (a.dim, a.num_irreps, a.ls, a.slices()) == (b.dim, b.num_irreps, b.ls, b.slices())
    assert (a.count(o3.Irrep(*ir)), o3.Irrep(*ir) in a) == (b.count(theirs.Irrep(*ir)), theirs.Irrep(*ir) in b)
    if a.num_irreps:
        assert a.lmax == b.lmax


@given(IRREPS)
def test_sorting_and_merging_agree_with_e3nn(entries: Any) -> None:
    a, b = o3.Irreps(entries), theirs.Irreps(entries)
    assert tuple(a.sort()) == tuple(b.sort())
    assert (a.sort().irreps, a.sort().p, a.sort().inv) == tuple(a.sort())
    assert a.regroup() == b.regroup()
    assert a.simplify() == b.simplify()
    assert a.remove_zero_multiplicities() == b.remove_zero_multiplicities()


@given(IRREPS, IRREPS, st.integers(0, 3))
def test_sums_and_multiples_agree_with_e3nn(left: Any, right: Any, n: int) -> None:
    a, b = o3.Irreps(left), theirs.Irreps(left)
    assert a + o3.Irreps(right) == a + theirs.Irreps(right) == b + theirs.Irreps(right)
    assert a * n == n * a == b * n


@given(IRREPS, st.integers(0, 10), st.integers(0, 10))
def test_slices_by_multiplicity_agree_with_e3nn(entries: Any, start: int, stop: int) -> None:
    # e3nn refuses some empty slices and leaves an empty entry in others; ours are empty.
    assume(start < stop)
    expected = theirs.Irreps(entries).slice_by_mul[start:stop]
    assert o3.Irreps(entries).slice_by_mul[start:stop] == expected


def test_an_empty_slice_by_multiplicity_is_empty() -> None:
    assert o3.Irreps("3x0e+1o").slice_by_mul[2:2] == o3.Irreps("3x0e+1o").slice_by_mul[2:1] == o3.Irreps()


@pytest.mark.parametrize(
    "keep", ["0e+1o", ["0e", "1o"], [o3.Irrep("0e"), theirs.Irrep("1o")], o3.Irreps("3x0e+1o"), lambda e: e.ir.l < 2]
)
def test_a_filter_keeps_or_drops_by_irrep(keep: Any) -> None:
    irreps = o3.Irreps("2x2e+3x0e+1x1o+1x0e")
    assert irreps.filter(keep=keep) == o3.Irreps("3x0e+1x1o+1x0e")
    assert irreps.filter(drop=keep) == o3.Irreps("2x2e")


def test_a_filter_takes_one_irrep_an_entry_or_a_degree() -> None:
    irreps = o3.Irreps("2x2e+3x0e+1x1o")
    assert irreps.filter("2e") == irreps.filter(o3.Irrep("2e")) == irreps.filter(irreps[0]) == o3.Irreps("2x2e")
    assert irreps.filter(lmax=1) == o3.Irreps("3x0e+1x1o")
    assert irreps.filter() == irreps


def test_the_index_of_an_irrep_is_its_first_entry() -> None:
    assert o3.Irreps("0e+2x1o+1o").index("1o") == 1


def test_products_of_irreps_agree_with_e3nn() -> None:
    for a, b in itertools.product(theirs.Irrep.iterator(3), repeat=2):
        assert list(o3.Irrep(a) * o3.Irrep(b)) == list(a * b)


def test_irreps_are_made_of_an_irrep() -> None:
    ir = o3.Irrep("1o")
    made = 3 * ir, ir + "2e"
    assert made == (o3.Irreps("3x1o"), o3.Irreps("1o+2e")) and all(type(irreps) is o3.Irreps for irreps in made)
    assert (ir.l, ir.p, ir.dim, ir.is_scalar(), o3.Irrep("0e").is_scalar()) == (1, -1, 3, False, True)


def test_the_iterator_agrees_with_e3nn() -> None:
    assert list(o3.Irrep.iterator(4)) == list(theirs.Irrep.iterator(4))
    assert list(itertools.islice(o3.Irrep.iterator(), 20)) == list(itertools.islice(theirs.Irrep.iterator(), 20))


@pytest.mark.parametrize("p", [-1, 1])
def test_irreps_of_harmonics_agree_with_e3nn(p: int) -> None:
    assert o3.Irreps.spherical_harmonics(4, p) == theirs.Irreps.spherical_harmonics(4, p)


@pytest.mark.parametrize(
    "refused",
    [
        lambda a: a.index("5e"),
        lambda a: a.filter(keep="0e", lmax=1),
        lambda a: a.slice_by_mul[1],
        lambda a: a.slice_by_mul[::2],
        lambda a: a * a,
        lambda a: o3.Irreps().lmax,
        lambda a: a.randn(3),
        lambda a: a.randn(-1, normalization="norms"),
    ],
)
def test_what_irreps_cannot_do_is_refused(refused: Any) -> None:
    with pytest.raises(ProgramError):
        refused(o3.Irreps("2x0e+1o"))


# --- features and matrices


@pytest.mark.parametrize("normalization", ["component", "norm"])
@pytest.mark.parametrize("size", [(-1,), (3, -1), (2, -1, 4)])
def test_the_same_seed_gives_e3nns_features(normalization: str, size: tuple[int, ...]) -> None:
    results = []
    for module in (o3, theirs):
        torch.manual_seed(2)
        results.append(module.Irreps("2x0e+3x1o").randn(*size, normalization=normalization, requires_grad=True))
    torch.testing.assert_close(*results, rtol=1e-14, atol=1e-14)
    assert results[0].is_leaf and results[0].requires_grad


def test_features_of_empty_irreps_have_no_columns() -> None:
    assert o3.Irreps("").randn(3, -1, normalization="norm").shape == (3, 0)


@pytest.mark.parametrize("text", ["1o", "2x0e+3x1o+2e+1e", "0x2e+0o"])
@pytest.mark.parametrize("shape", [(), (4,)])
def test_matrices_agree_with_e3nn(text: str, shape: tuple[int, ...]) -> None:
    a, b = o3.Irreps(text), theirs.Irreps(text)
    angles, k = o3.rand_angles(*shape), torch.randint(0, 3, shape)
    calls = [
        ("D_from_angles", angles),
        ("D_from_angles", (*angles, k)),
        ("D_from_quaternion", (o3.angles_to_quaternion(*angles), k)),
        ("D_from_matrix", (o3.angles_to_matrix(*angles) * (1 - 2 * (k % 2))[..., None, None],)),
        ("D_from_axis_angle", o3.angles_to_axis_angle(*angles)),
    ]
    for name, args in calls:
        torch.testing.assert_close(getattr(a, name)(*args), getattr(b, name)(*args), rtol=1e-11, atol=1e-11)
        ir, other = a[-1].ir, b[-1].ir
        torch.testing.assert_close(getattr(ir, name)(*args), getattr(other, name)(*args), rtol=1e-11, atol=1e-11)


def test_a_vector_turns_by_the_matrix_itself() -> None:
    R = o3.rand_matrix(5) * torch.tensor([1.0, -1, 1, -1, -1])[:, None, None]
    torch.testing.assert_close(o3.Irrep("1o").D_from_matrix(R), R, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(o3.Irrep("1e").D_from_matrix(R), torch.det(R)[:, None, None] * R, rtol=1e-11, atol=1e-11)


def test_the_matrix_of_empty_irreps_is_empty() -> None:
    assert o3.Irreps("").D_from_angles(*o3.rand_angles(4)).shape == (4, 0, 0)


def test_a_matrix_is_differentiable_in_the_rotation() -> None:
    angles = [a.requires_grad_() for a in o3.rand_angles()]
    assert torch.autograd.gradcheck(o3.Irreps("1o+2e").D_from_angles, angles)
