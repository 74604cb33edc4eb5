"""Products whose paths follow from the irreps, against e3nn's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equikern import o3
from equikern.errors import ProgramError

pytest.importorskip("e3nn", minversion="0.6", reason="e3nn 0.6 is what these products are compared with")
from e3nn import o3 as theirs

NORMALIZATIONS = ("component", "norm", "none", None)
ENTRY = st.tuples(st.integers(0, 3), st.tuples(st.integers(0, 2), st.sampled_from([-1, 1])))
IRREPS = st.lists(ENTRY, max_size=3)


def assert_same_paths(a: Any, b: Any) -> None:
    """Equal instructions, their factors to the last bits."""
    assert [ins[:5] + ins[6:] for ins in a.instructions] == [ins[:5] + ins[6:] for ins in b.instructions]
    factors = [ins.path_weight for ins in b.instructions]
    assert [ins.path_weight for ins in a.instructions] == pytest.approx(factors, rel=1e-15)


def assert_twins(name: str, inputs: int, *args: Any, **kwargs: Any) -> None:
    """Ours and e3nn's have the same paths, irreps, text and values with the same weights."""
    a, b = getattr(o3, name)(*args, **kwargs), getattr(theirs, name)(*args, **kwargs)
    assert_same_paths(a, b)
    assert (a.irreps_in1, a.irreps_in2, a.irreps_out) == (b.irreps_in1, b.irreps_in2, b.irreps_out)
    assert repr(a) == repr(b)
    a.load_state_dict(b.state_dict())
    x = [torch.randn(3, irreps.dim) for irreps in (a.irreps_in1, a.irreps_in2)[:inputs]]
    torch.testing.assert_close(a(*x), b(*x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("irrep", NORMALIZATIONS)
@pytest.mark.parametrize("path", ["element", "path", None])
def test_fully_connected_products_agree_with_e3nn(irrep: str | None, path: str | None) -> None:
    irreps = "2x0e+3x1o+1x2e", "1x0e+2x1o", "4x0e+2x1o+3x1e+1x2e"
    assert_twins("FullyConnectedTensorProduct", 2, *irreps, irrep, path)


@settings(max_examples=15)
@given(IRREPS, IRREPS, IRREPS)
def test_any_fully_connected_product_agrees_with_e3nn(x: Any, y: Any, z: Any) -> None:
    assert_twins("FullyConnectedTensorProduct", 2, x, y, z)


def test_a_fully_connected_product_passes_on_what_a_product_takes() -> None:
    tp = o3.FullyConnectedTensorProduct("2x1o", "1o", "3x0e", shared_weights=False)
    assert tp(torch.randn(4, 6), torch.randn(4, 3), torch.randn(4, tp.weight_numel)).shape == (4, 3)


@pytest.mark.parametrize("irrep", NORMALIZATIONS)
@pytest.mark.parametrize("admitted", [None, ["0e", "0o"], [o3.Irrep("1e")]])
def test_elementwise_products_agree_with_e3nn(irrep: str | None, admitted: Any) -> None:
    assert_twins("ElementwiseTensorProduct", 2, "5x1o+2x1o+5x1e+0x2e", "10x1e+2x0o", admitted, irrep)


@settings(max_examples=15)
@given(IRREPS, st.lists(st.tuples(st.integers(0, 2), st.sampled_from([-1, 1])), min_size=9, max_size=9))
def test_any_elementwise_product_agrees_with_e3nn(x: Any, irs: Any) -> None:
    assert_twins("ElementwiseTensorProduct", 2, x, [(1, ir) for ir in irs[: o3.Irreps(x).num_irreps]])


def test_an_elementwise_product_of_different_numbers_of_irreps_is_refused() -> None:
    with pytest.raises(ProgramError, match="2x1o has 2 and 3x1o has 3"):
        o3.ElementwiseTensorProduct("2x1o", "3x1o")


@pytest.mark.parametrize("irrep", NORMALIZATIONS)
@pytest.mark.parametrize("admitted", [None, ["0e", "1o"]])
def test_full_products_agree_with_e3nn(irrep: str | None, admitted: Any) -> None:
    assert_twins("FullTensorProduct", 2, "2x0e+1x0e+2x1o+1x2e", "2x1o+1x1e", admitted, irrep)


@settings(max_examples=15)
@given(IRREPS, IRREPS)
def test_any_full_product_agrees_with_e3nn(x: Any, y: Any) -> None:
    assert_twins("FullTensorProduct", 2, x, y)


@pytest.mark.parametrize("irrep", NORMALIZATIONS)
@pytest.mark.parametrize("irreps_out", [None, "4x0e+3x1o+1e+2x2e"])
def test_squares_agree_with_e3nn(irrep: str | None, irreps_out: str | None) -> None:
    assert_twins("TensorSquare", 1, "2x0e+3x1o+1x2e+1x1o", irreps_out, irrep_normalization=irrep)


def test_filtered_squares_agree_with_e3nn() -> None:
    assert_twins("TensorSquare", 1, "2x0e+3x1o", filter_ir_out=["0e", "1e"])


@pytest.mark.parametrize("product", ["FullTensorProduct", "ElementwiseTensorProduct"])
def test_a_filter_that_is_no_irrep_is_refused(product: str) -> None:
    with pytest.raises(ProgramError, match="is no irrep"):
        getattr(o3, product)("1o", "1o", ["x"])


def test_a_square_with_outputs_and_a_filter_is_refused() -> None:
    with pytest.raises(ProgramError, match="not both"):
        o3.TensorSquare("1o", "0e", ["0e"])


def test_a_square_with_an_unknown_normalization_is_refused() -> None:
    with pytest.raises(ProgramError, match="irrep_normalization is one of"):
        o3.TensorSquare("1o", irrep_normalization="components")
