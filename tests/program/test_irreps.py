"""Irreps: what is read, what is refused, and in which words."""

from __future__ import annotations

import pytest

from equikern.errors import ProgramError
from equikern.program import Irrep, Irreps
from equikern.program.irreps import iter_irreps, sort_irreps


@pytest.mark.parametrize(
    "text, expected",
    [
        ("1o", [(1, (1, -1))]),
        ("32x0e + 16x1o", [(32, (0, 1)), (16, (1, -1))]),
        (" 2 x 1e+0e", [(2, (1, 1)), (1, (0, 1))]),
        ("3x2y", [(3, (2, 1))]),
        ("3x1y", [(3, (1, -1))]),
        ("0x4e", [(0, (4, 1))]),
        ("", []),
        ("  ", []),
    ],
)
def test_text_is_read_as_entries(text, expected):
    assert list(Irreps(text)) == expected


@pytest.mark.parametrize("text", ["1", "x1o", "2x", "1u", "1o+", "+1o", "-1x0e", "1.5x0e", "0e 1o", "1ox2"])
def test_unreadable_irreps_are_named_in_the_error(text):
    with pytest.raises(ProgramError, match=r"cannot read .* in irreps"):
        Irreps(text)


@pytest.mark.parametrize("text", ["1", "2x1o", "e", "-1o", ""])
def test_unreadable_irrep_is_named_in_the_error(text):
    with pytest.raises(ProgramError, match="is no irrep"):
        Irrep(text)


@pytest.mark.parametrize("arguments", [(-1, 1), (1, 0), (1.5, 1), (1, 2)])
def test_an_irrep_needs_a_degree_and_a_sign(arguments):
    with pytest.raises(ProgramError, match="an irrep has an integer l >= 0 and a parity"):
        Irrep(*arguments)


@pytest.mark.parametrize("value", [3, 1.5])
def test_an_irrep_needs_text_or_a_pair(value):
    with pytest.raises(ProgramError, match="give a string"):
        Irrep(value)


def test_entries_are_pairs():
    with pytest.raises(ProgramError, match=r"give \(mul, ir\) pairs"):
        Irreps([3])


@pytest.mark.parametrize("mul", [-1, 1.5])
def test_a_multiplicity_is_a_natural_number(mul):
    with pytest.raises(ProgramError, match="a multiplicity is an integer >= 0"):
        Irreps([(mul, "1o")])


def test_empty_irreps_have_no_lmax():
    with pytest.raises(ProgramError, match="no lmax"):
        _ = Irreps("").lmax


def test_columns_follow_the_entries():
    assert Irreps("2x0e+0x3o+3x1o").slices() == [slice(0, 2), slice(2, 2), slice(2, 11)]


def test_a_product_of_irreps_obeys_triangle_and_parity():
    assert list(Irrep("1o") * Irrep("2e")) == [Irrep("1o"), Irrep("2o"), Irrep("3o")]


def test_simplify_merges_equal_neighbours_only():
    assert Irreps("1o+2x1o+0x0e+1o+0e+1o").simplify() == Irreps("4x1o+0e+1o")


def test_zero_multiplicities_are_removed_on_request():
    assert Irreps("0x0e+2x1o").remove_zero_multiplicities() == Irreps("2x1o")


def test_counting_sums_over_entries():
    assert Irreps("2x1o+0e+3x1o").count("1o") == 5 and Irreps("0x1o").count("1o") == 0


def test_an_entry_of_multiplicity_zero_is_contained_as_in_e3nn():
    assert "1o" in Irreps("0x1o+1e") and "2o" not in Irreps("0x1o+1e")


def test_sorting_is_stable_and_invertible():
    irreps = Irreps("2e+1e+1o+0o+0e")
    ordered = sort_irreps(irreps)
    assert str(ordered.irreps) == "1x0o+1x0e+1x1o+1x1e+1x2e"
    assert [ordered.irreps[i] for i in ordered.p] == list(irreps) and [irreps[i] for i in ordered.inv] == list(
        ordered.irreps
    )


def test_irreps_iterate_by_degree_natural_parity_first():
    assert [str(ir) for ir in iter_irreps(1)] == ["0e", "0o", "1o", "1e"]


def test_e3nn_irreps_are_read_as_they_are():
    o3 = pytest.importorskip("e3nn.o3", reason="e3nn is not installed")
    assert Irreps(o3.Irreps("2x0e+3x1o")) == Irreps("2x0e+3x1o") and Irreps(o3.Irrep("1o")) == Irreps("1o")
