"""`o3.Linear` against e3nn's: values, gradients, weights, biases; and what it refuses."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from equikern import o3
from equikern.errors import ProgramError, ShapeError

pytest.importorskip("e3nn", minversion="0.6", reason="e3nn 0.6 is what these maps are compared with")
from e3nn import o3 as theirs

X, Z = "4x0e+3x1o+2x0e+1x2o", "5x0e+2x1o+1x0e+2x2e"
ENTRY = st.tuples(st.integers(0, 3), st.tuples(st.integers(0, 1), st.sampled_from([-1, 1])))
IRREPS = st.lists(ENTRY, max_size=4)


def twins(*args: Any, **kwargs: Any) -> tuple[o3.Linear, Any]:
    """Our map and e3nn's of the same arguments, weights and biases."""
    a, b = o3.Linear(*args, **kwargs), theirs.Linear(*args, **kwargs)
    a.load_state_dict(b.state_dict())
    if b.bias.numel():
        with torch.no_grad():
            a.bias.copy_(b.bias.normal_())
    return a, b


def value_and_gradients(linear: Any, *tensors: torch.Tensor) -> list[torch.Tensor]:
    leaves = [a.clone().requires_grad_() for a in tensors]
    z = linear(*leaves)
    wanted = [*leaves, *linear.parameters()]
    return [z.detach(), *torch.autograd.grad((z**3).sum() + sum(0 * a.sum() for a in wanted), wanted)]


def assert_same(a: o3.Linear, b: Any, *tensors: torch.Tensor) -> None:
    expected = value_and_gradients(b, *tensors)
    torch.testing.assert_close(value_and_gradients(a, *tensors), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("path", ["element", "path"])
@pytest.mark.parametrize(
    ("instructions", "biases"),
    [
        (None, False),
        (None, True),
        (None, None),
        (None, [True, False, False, False]),
        ([(0, 0), (2, 0), (1, 1)], [True, False, False, False]),
        ([(0, 2), (0, 2)], [False, False, True, False]),
        ([], False),
    ],
)
def test_linear_maps_agree_with_e3nn(path: str, biases: Any, instructions: Any) -> None:
    a, b = twins(X, Z, path_normalization=path, biases=biases, instructions=instructions)
    assert a.instructions == b.instructions
    assert a.weight_index_slices == b.weight_index_slices
    assert (a.weight_numel, a.bias_numel, repr(a)) == (b.weight_numel, b.bias_numel, repr(b))
    assert torch.equal(a.output_mask, b.output_mask)
    assert_same(a, b, torch.randn(2, 3, a.irreps_in.dim))


@settings(max_examples=30)
@given(IRREPS, IRREPS, st.booleans(), st.integers(0, 3))
def test_any_linear_map_agrees_with_e3nn(x: Any, z: Any, biases: bool, rows: int) -> None:
    # e3nn fails without columns, and where nothing but a bias reaches an entry.
    assume(any(mul > 0 for mul, _ in x))
    biases = biases and any(mul > 0 and ir == (0, 1) for mul, ir in x)
    a, b = twins(x, z, biases=biases)
    assert_same(a, b, torch.randn(rows, a.irreps_in.dim))


def test_a_bias_fills_an_entry_without_paths() -> None:
    linear = o3.Linear("1o", "2x0e+1o+0e", biases=[True, False, True])
    with torch.no_grad():
        linear.bias.copy_(torch.tensor([1.0, 2.0, 3.0]))
    z = linear(torch.zeros(2, 3))
    assert z.tolist() == [[1, 2, 0, 0, 0, 3]] * 2


def test_a_map_from_nothing_gives_zeros() -> None:
    assert torch.equal(o3.Linear("", "2x0e")(torch.zeros(3, 0)), torch.zeros(3, 2))


def test_weights_and_biases_from_outside_agree_with_e3nn() -> None:
    a, b = twins(X, Z, internal_weights=False, biases=True)
    assert_same(a, b, torch.randn(4, a.irreps_in.dim), torch.randn(a.weight_numel), torch.randn(a.bias_numel))


@pytest.mark.parametrize("rows", [(4, 2), (8,), (1,)])
def test_a_weight_row_for_each_row_agrees_with_e3nn(rows: tuple[int, ...]) -> None:
    a, b = twins(X, Z, shared_weights=False)
    assert_same(a, b, torch.randn(4, 2, a.irreps_in.dim), torch.randn(*rows, a.weight_numel))


@pytest.mark.parametrize("shared", [True, False])
def test_channels_beside_the_irreps_agree_with_e3nn(shared: bool) -> None:
    # e3nn's map with biases cannot be made where weights are not shared.
    a, b = twins(X, Z, f_in=3, f_out=2, biases=shared, shared_weights=shared)
    tensors = [torch.randn(4, 3, a.irreps_in.dim)]
    if not shared:
        tensors.append(torch.randn(4, 3, 2, a.weight_numel))
    assert a(*tensors).shape == (4, 2, a.irreps_out.dim)
    assert_same(a, b, *tensors)


@pytest.mark.parametrize("shared", [None, True, False])
@pytest.mark.parametrize("internal", [None, False])
def test_where_weights_live_agrees_with_e3nn(internal: bool | None, shared: bool | None) -> None:
    a, b = twins(X, Z, internal_weights=internal, shared_weights=shared)
    assert (a.internal_weights, a.shared_weights) == (b.internal_weights, b.shared_weights)
    assert isinstance(a.weight, torch.nn.Parameter) == isinstance(b.weight, torch.nn.Parameter)
    assert (a.weight.shape, a.bias.shape) == (b.weight.shape, b.bias.shape)


def test_the_same_seed_gives_e3nns_initial_weights_and_biases_start_at_zero() -> None:
    torch.manual_seed(3)
    a = o3.Linear(X, Z, biases=True)
    torch.manual_seed(3)
    b = theirs.Linear(X, Z, biases=True)
    assert torch.equal(a.weight, b.weight) and a.bias.count_nonzero() == 0


def test_weight_views_are_views_of_the_weights_in_e3nns_order() -> None:
    a, b = twins(X, Z)
    for (n, ins, view), (n2, ins2, view2) in zip(
        a.weight_views(yield_instruction=True), b.weight_views(yield_instruction=True), strict=True
    ):
        assert (n, ins) == (n2, ins2)
        assert torch.equal(view, view2)
    with torch.no_grad():
        for view in a.weight_views():
            view.zero_()
    assert a.weight.count_nonzero() == 0


def test_weight_views_leave_biases_out() -> None:
    views = list(o3.Linear("2x0e", "3x0e", biases=True).weight_views())
    assert [tuple(view.shape) for view in views] == [(2, 3)]


def test_linear_maps_are_equivariant_under_rotations_and_inversion() -> None:
    linear = o3.Linear(X, Z, biases=True)
    R = -o3.rand_matrix()
    x, dx, dz = linear.irreps_in.randn(3, -1), linear.irreps_in.D_from_matrix(R), linear.irreps_out.D_from_matrix(R)
    torch.testing.assert_close(linear(x @ dx.T), linear(x) @ dz.T, rtol=1e-12, atol=1e-12)


def test_the_second_derivative_passes_gradgradcheck() -> None:
    linear = o3.Linear("2x0e+1o", "1x0e+2x1o", internal_weights=False, biases=True)
    tensors = (torch.randn(2, 5), torch.randn(linear.weight_numel), torch.randn(linear.bias_numel))
    assert torch.autograd.gradgradcheck(linear, [a.requires_grad_() for a in tensors])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_a_copy_computes_the_same_with_weights_of_its_own(copied: Any) -> None:
    linear = o3.Linear(X, Z, biases=True)
    x = linear.irreps_in.randn(3, -1)
    expected, other = linear(x).detach(), copied(linear)
    with torch.no_grad():
        linear.weight.zero_()
    assert torch.equal(other(x), expected)


def test_state_dicts_load_strictly_both_ways() -> None:
    a, b = o3.Linear(X, Z, biases=True), theirs.Linear(X, Z, biases=True)
    assert list(a.state_dict()) == list(b.state_dict()) == ["weight", "bias", "output_mask"]
    b.load_state_dict(a.state_dict(), strict=True)
    assert torch.equal(a.weight, b.weight)


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        (("1o", "1o"), {"instructions": [(0, 1)]}, "out of range"),
        (("1o", "1o"), {"instructions": [(-1, 0)]}, "out of range"),
        (("1o", "1e"), {"instructions": [(0, 0)]}, "maps 1o to 1e"),
        (("1o", "1o"), {"biases": [True]}, "only 0e can have a bias"),
        (("0e", "0e"), {"biases": [True, True]}, "biases has 2 entries"),
        (("0e", "0e"), {"f_in": 3}, "both or neither"),
        (("0e", "0e"), {"path_normalization": "none"}, "path_normalization is one of"),
        (("0e", "0e"), {"internal_weights": True, "shared_weights": False}, "internal weights are shared"),
    ],
)
def test_an_impossible_map_is_refused_with_its_reason(args: Any, kwargs: Any, message: str) -> None:
    with pytest.raises(ProgramError, match=message):
        o3.Linear(*args, **kwargs)


def test_features_with_other_columns_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"features have shape \(4, 7\)"):
        o3.Linear("2x1o", "1o")(torch.zeros(4, 7))


@pytest.mark.parametrize("shared", [True, False])
def test_weights_that_do_not_fit_are_refused(shared: bool) -> None:
    linear = o3.Linear("2x1o", "1o", internal_weights=False, shared_weights=shared)
    with pytest.raises(ShapeError, match="weight has shape"):
        linear(torch.zeros(4, 6), torch.zeros(3, 2))


def test_biases_that_do_not_fit_are_refused() -> None:
    linear = o3.Linear("2x0e", "3x0e", internal_weights=False, biases=True)
    with pytest.raises(ShapeError, match="bias has shape"):
        linear(torch.zeros(4, 2), torch.zeros(6), torch.zeros(2))
    with pytest.raises(ShapeError, match="bias has shape"):
        linear(torch.zeros(4, 2), torch.zeros(6), torch.zeros(4, 3))


def test_missing_weights_and_biases_are_refused() -> None:
    linear = o3.Linear("2x0e", "3x0e", internal_weights=False, biases=True)
    with pytest.raises(ShapeError, match="no internal weights"):
        linear(torch.zeros(4, 2))
    with pytest.raises(ShapeError, match="no internal biases"):
        linear(torch.zeros(4, 2), torch.zeros(6))


def test_a_view_of_a_bias_is_refused() -> None:
    with pytest.raises(ProgramError, match="path 1 is a bias"):
        o3.Linear("2x0e", "3x0e", biases=True).weight_view_for_instruction(1)
