"""`o3.TensorProduct` against e3nn's: values, gradients, weights, factors; and what it refuses."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from equikern import o3
from equikern.errors import ProgramError, ShapeError

pytest.importorskip("e3nn", minversion="0.6", reason="e3nn 0.6 is what these products are compared with")
from e3nn import o3 as theirs

# irreps and instructions that have every mode, with and without weights
MODES = {
    "uvw": ("3x1o+2x0e", "2x1o+1x2e", "4x1e+2x1o", [(0, 0, 0, "uvw", True), (0, 1, 1, "uvw", True, 2.5)]),
    "uvu": ("3x1o+2x0e", "2x1o+1x2e", "3x1e+3x2o", [(0, 0, 0, "uvu", True), (0, 1, 1, "uvu", False)]),
    "uvv": ("3x1o+2x0e", "2x1o+1x2e", "2x0e+2x2e", [(0, 0, 0, "uvv", True), (0, 0, 1, "uvv", False)]),
    "uuw": ("3x1o+3x2e", "3x1o+3x2e", "1x0e+4x2o", [(0, 0, 0, "uuw", False), (0, 1, 1, "uuw", True)]),
    "uuu": ("3x1o+3x2e", "3x1o+3x2e", "3x1e+3x2e", [(0, 0, 0, "uuu", True), (1, 1, 1, "uuu", False)]),
    "uvuv": ("3x1o+2x0e", "2x1o+1x2e", "6x1e+3x3o", [(0, 0, 0, "uvuv", True), (0, 1, 1, "uvuv", False)]),
    "uvu<v": ("4x1o", "4x1o", "6x1e+6x2e", [(0, 0, 0, "uvu<v", True), (0, 0, 1, "uvu<v", False)]),
    "u<vw": ("4x1o", "4x1o", "5x1e+2x2e", [(0, 0, 0, "u<vw", True), (0, 0, 1, "u<vw", True)]),
}
SUMMED = (
    "2x0e+2x1o",
    "1x0e+1x1o",
    "2x0e+2x1o+1x2e",
    [(0, 0, 0, "uvu", True), (1, 1, 0, "uvu", False), (0, 1, 1, "uvw", True)],
)
CASES = {**MODES, "summed": SUMMED}


def twins(*args: Any, **kwargs: Any) -> tuple[o3.TensorProduct, Any]:
    """Our product and e3nn's of the same arguments and weights."""
    a, b = o3.TensorProduct(*args, **kwargs), theirs.TensorProduct(*args, **kwargs)
    a.load_state_dict(b.state_dict())
    return a, b


def value_and_gradients(tp: Any, inputs: Sequence[Tensor], weight: Tensor | None) -> list[Tensor]:
    leaves = [a.clone().requires_grad_() for a in inputs]
    external = () if weight is None else (weight.clone().requires_grad_(),)
    z = tp(*leaves, *external)
    own = [tp.weight] if tp.weight.requires_grad and not external else []
    wanted = [*leaves, *external, *own]
    cotangent = torch.linspace(-1, 1, z.numel()).reshape(z.shape)
    # The last summand ties in what a product without paths does not read.
    loss = (z * cotangent).sum() + (z**2).sum() + sum(0 * leaf.sum() for leaf in wanted)
    grads = torch.autograd.grad(loss, wanted)
    return [z.detach(), *grads]


def assert_equal(a: Any, b: Any) -> None:
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def assert_same_paths(a: Any, b: Any) -> None:
    """Equal instructions, their factors to the last bits."""
    assert [ins[:5] + ins[6:] for ins in a.instructions] == [ins[:5] + ins[6:] for ins in b.instructions]
    factors = [ins.path_weight for ins in b.instructions]
    assert [ins.path_weight for ins in a.instructions] == pytest.approx(factors, rel=1e-15)


def assert_same(a: o3.TensorProduct, b: Any, inputs: Sequence[Tensor], weight: Tensor | None = None) -> None:
    assert_equal(value_and_gradients(a, inputs, weight), value_and_gradients(b, inputs, weight))


def features(tp: Any, *lead: int) -> tuple[Tensor, Tensor]:
    return torch.randn(*lead, tp.irreps_in1.dim), torch.randn(*lead, tp.irreps_in2.dim)


# --- values and gradients


@pytest.mark.parametrize("case", CASES)
def test_internal_weights_agree_with_e3nn(case: str) -> None:
    a, b = twins(*CASES[case])
    assert_same(a, b, features(a, 5))


@pytest.mark.parametrize("case", CASES)
def test_a_weight_row_for_each_row_agrees_with_e3nn(case: str) -> None:
    a, b = twins(*CASES[case], shared_weights=False)
    assert_same(a, b, features(a, 5), torch.randn(5, a.weight_numel))


@pytest.mark.parametrize("case", CASES)
def test_external_shared_weights_agree_with_e3nn(case: str) -> None:
    a, b = twins(*CASES[case], internal_weights=False, shared_weights=True)
    assert_same(a, b, features(a, 5), torch.randn(a.weight_numel))


@pytest.mark.parametrize("case", CASES)
def test_the_operator_of_a_right_input_acts_as_the_product(case: str) -> None:
    tp = o3.TensorProduct(*CASES[case], compile_right=True)
    x, y = features(tp, 2, 3)
    assert_equal(torch.einsum("...ik,...i->...k", tp.right(y), x), tp(x, y))


# e3nn has no `right` for the modes with u<v
@pytest.mark.parametrize("case", [case for case in CASES if "<" not in case])
def test_the_operator_of_a_right_input_agrees_with_e3nn(case: str) -> None:
    a, b = twins(*CASES[case], compile_right=True)
    _, y = features(a, 2, 3)
    assert_equal(a.right(y), b.right(y))


def test_the_operator_of_a_right_input_takes_a_weight_row_for_each_row() -> None:
    a, b = twins(*SUMMED, compile_right=True, shared_weights=False)
    (_, y), w = features(a, 4), torch.randn(4, a.weight_numel)
    assert_equal(a.right(y, w), b.right(y, w))


@pytest.mark.parametrize(
    ("x", "y", "w"),
    [((), (), (1,)), ((3,), (3,), (3,)), ((2, 1), (3,), (2, 3)), ((4, 1, 3), (2, 1), (1, 1, 3)), ((2,), (1,), (1,))],
)
def test_leading_dimensions_broadcast_as_in_e3nn(x: tuple[int, ...], y: tuple[int, ...], w: tuple[int, ...]) -> None:
    a, b = twins(*SUMMED, shared_weights=False)
    inputs = torch.randn(*x, a.irreps_in1.dim), torch.randn(*y, a.irreps_in2.dim)
    assert_same(a, b, inputs, torch.randn(*w, a.weight_numel))


@pytest.mark.parametrize("shared", [True, False])
def test_a_list_of_weights_is_the_same_as_flat_weights(shared: bool) -> None:
    a, b = twins(*SUMMED, shared_weights=shared, internal_weights=False)
    x, y = features(a, 4)
    w = torch.randn(*(() if shared else (4,)), a.weight_numel)
    listed = list(a.weight_views(w))
    assert_equal(a(x, y, listed), b(x, y, [view.clone() for view in b.weight_views(w)]))
    assert_equal(a(x, y, listed), a(x, y, w))


def test_non_contiguous_inputs_give_the_same() -> None:
    a, _ = twins(*SUMMED)
    x, y = features(a, 4)
    assert_equal(a(x.T.contiguous().T, y.repeat(1, 2)[:, : y.shape[1]]), a(x, y))


IRREPS = st.lists(
    st.tuples(st.sampled_from([3, 2, 1, 0]), st.tuples(st.integers(0, 2), st.sampled_from([-1, 1]))),
    min_size=1,
    max_size=3,
)


@st.composite
def products(draw: st.DrawFn) -> tuple[Any, Any, Any, Any]:
    """Random irreps and paths of all modes between them, empty entries and entries without path included."""
    x, y = draw(IRREPS), draw(IRREPS)
    z: list[Any] = draw(IRREPS)
    paths = []
    for i, (m1, ir1) in enumerate(x):
        for j, (m2, ir2) in enumerate(y):
            equal = [mode for mode in MODES if m1 == m2 or not (mode in ("uuw", "uuu") or "<" in mode)]
            for ir in o3.Irrep(*ir1) * o3.Irrep(*ir2):
                mode = draw(st.sampled_from([*equal[::-1], None]))
                if mode is None:
                    continue
                weighted = mode in ("uvw", "u<vw") or draw(st.booleans())
                free = 1 if mode == "uuw" and not weighted else 2
                pairs = m1 * (m1 - 1) // 2
                mul = {"uvu": m1, "uvv": m2, "uuu": m1, "uvuv": m1 * m2, "uvu<v": pairs}.get(mode, free)
                if (mul, tuple(ir)) not in z:
                    z.append((mul, tuple(ir)))
                paths.append((i, j, z.index((mul, tuple(ir))), mode, weighted, draw(st.sampled_from([1.0, 0.3, 2.0]))))
    return x, y, z, paths


@settings(max_examples=100)
@given(products(), st.integers(0, 3), st.booleans())
def test_any_product_agrees_with_e3nn(product: tuple[Any, Any, Any, Any], rows: int, shared: bool) -> None:
    a, b = twins(*product, shared_weights=shared)
    weight = None if shared else torch.randn(rows, a.weight_numel)
    assert_same(a, b, features(a, rows), weight)
    assert_same_paths(a, b)
    assert_equal(a.output_mask, b.output_mask)
    assert str(a) == str(b)


# --- factors, weights, attributes


@pytest.mark.parametrize("irrep", ["component", "norm", "none", None])
@pytest.mark.parametrize("path", ["element", "path", "none", None])
def test_normalisations_agree_with_e3nn(irrep: str | None, path: str | None) -> None:
    variances = {"in1_var": [1.5, 2.0], "in2_var": torch.tensor([0.5, 3.0]), "out_var": [1.0, 0.1, 7.0]}
    a, b = twins(*SUMMED, irrep_normalization=irrep, path_normalization=path, **variances)
    assert_same(a, b, features(a, 3))
    assert_same_paths(a, b)


def test_the_deprecated_normalization_means_irrep_normalization() -> None:
    with pytest.warns(DeprecationWarning, match="irrep_normalization"):
        a = o3.TensorProduct(*SUMMED, normalization="norm")
    assert a.instructions == o3.TensorProduct(*SUMMED, irrep_normalization="norm").instructions


@pytest.mark.parametrize("internal", [None, True, False])
@pytest.mark.parametrize("shared", [None, True])
@pytest.mark.parametrize("case", ["summed", "unweighted"])
def test_where_weights_live_agrees_with_e3nn(internal: bool | None, shared: bool | None, case: str) -> None:
    args = SUMMED if case == "summed" else ("1o", "1o", "0e", [(0, 0, 0, "uuu", False)])
    a, b = twins(*args, internal_weights=internal, shared_weights=shared)
    for name in ("internal_weights", "shared_weights", "weight_numel", "irreps_in1", "irreps_in2", "irreps_out"):
        assert getattr(a, name) == getattr(b, name), name
    assert isinstance(a.weight, torch.nn.Parameter) == isinstance(b.weight, torch.nn.Parameter)
    assert a.weight.shape == b.weight.shape


def test_unshared_weights_are_external() -> None:
    assert o3.TensorProduct(*SUMMED, shared_weights=False).internal_weights is False


def test_weight_views_are_views_of_the_weights_in_e3nns_order() -> None:
    a, b = twins(*SUMMED)
    for (n, ins, view), (n2, ins2, view2) in zip(
        a.weight_views(yield_instruction=True), b.weight_views(yield_instruction=True), strict=True
    ):
        assert (n, ins) == (n2, ins2)
        assert_equal(view.detach(), view2.detach())
    with torch.no_grad():
        for view in a.weight_views():
            view.zero_()
    assert a.weight.count_nonzero() == 0


def test_a_view_skips_unweighted_paths_before_it() -> None:
    a = o3.TensorProduct(*SUMMED)
    assert a.weight_view_for_instruction(2).data_ptr() == a.weight[2:].data_ptr()


def test_initial_weights_are_standard_normal() -> None:
    weight = o3.FullyConnectedTensorProduct("40x0e", "10x0e", "40x0e").weight.detach()
    assert abs(weight.mean()) < 0.05 and abs(weight.std() - 1) < 0.05


def test_the_same_seed_gives_e3nns_initial_weights() -> None:
    torch.manual_seed(3)
    a = o3.TensorProduct(*SUMMED)
    torch.manual_seed(3)
    b = theirs.TensorProduct(*SUMMED)
    assert torch.equal(a.weight, b.weight)


# --- symmetry


@pytest.mark.parametrize("case", CASES)
def test_products_are_equivariant_under_rotations_and_inversion(case: str) -> None:
    tp = o3.TensorProduct(*CASES[case])
    x, y = features(tp, 3)
    R = o3.rand_matrix() * -1
    dx, dy, dz = (irreps.D_from_matrix(R) for irreps in (tp.irreps_in1, tp.irreps_in2, tp.irreps_out))
    assert_equal(tp(x @ dx.T, y @ dy.T), tp(x, y) @ dz.T)


# --- edges of the domain


def test_no_instructions_give_zeros() -> None:
    tp = o3.TensorProduct("2x1o", "1o", "3x0e+1o", [])
    z = tp(torch.randn(2, 1, 6), torch.randn(3, 3))
    assert z.shape == (2, 3, 6) and z.count_nonzero() == 0


def test_an_empty_batch_gives_an_empty_result() -> None:
    a, b = twins(*SUMMED)
    assert_same(a, b, features(a, 0))


def test_empty_irreps_give_zeros() -> None:
    tp = o3.TensorProduct("", "1o", "3x0e", [])
    assert_equal(tp(torch.zeros(4, 0), torch.randn(4, 3)), torch.zeros(4, 3))


def test_entries_without_path_are_zero_and_masked() -> None:
    tp = o3.TensorProduct("2x0e", "1x0e", "2x0e+4x1o", [(0, 0, 0, "uvu", True)])
    assert tp.output_mask.tolist() == [1, 1] + [0] * 12
    assert tp(torch.randn(3, 2), torch.randn(3, 1))[:, 2:].count_nonzero() == 0


@pytest.mark.parametrize("path", [(0, 0, 0, "uvw", True), (1, 0, 0, "uvw", True, 0.0)], ids=["no channel", "no weight"])
def test_entries_that_only_dead_paths_reach_are_masked(path: tuple[Any, ...]) -> None:
    args = ("0x0e+2x0e", "1x0e", "2x0e", [path])
    assert o3.TensorProduct(*args).output_mask.tolist() == theirs.TensorProduct(*args).output_mask.tolist() == [0, 0]


def test_e3nns_irreps_are_read() -> None:
    x, y, z, paths = SUMMED
    a = o3.TensorProduct(theirs.Irreps(x), theirs.Irreps(y), theirs.Irreps(z), paths)
    assert (a.irreps_in1, a.irreps_in2, a.irreps_out) == (o3.Irreps(x), o3.Irreps(y), o3.Irreps(z))


def test_single_precision_stays_single() -> None:
    tp = o3.TensorProduct(*SUMMED).to(torch.float32)
    x, y = (a.float() for a in features(tp, 3))
    assert tp(x, y).dtype == torch.float32
    torch.testing.assert_close(
        tp(x, y).double(), copy.deepcopy(tp).double()(x.double(), y.double()), rtol=1e-5, atol=1e-5
    )


# --- copies and state dicts


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda tp: pickle.loads(pickle.dumps(tp))], ids=["deepcopy", "pickle"]
)
def test_a_copy_computes_the_same_with_weights_of_its_own(copied: Any) -> None:
    tp = o3.TensorProduct(*SUMMED)
    x, y = features(tp, 3)
    expected = tp(x, y).detach()
    other = copied(tp)
    with torch.no_grad():
        tp.weight.zero_()
    assert_equal(other(x, y).detach(), expected)


def test_a_state_dict_holds_weight_and_output_mask() -> None:
    assert list(o3.TensorProduct(*SUMMED).state_dict()) == ["weight", "output_mask"]


def test_e3nns_state_dict_loads_strictly_inside_a_larger_module() -> None:
    b = torch.nn.ModuleDict({"tp": theirs.TensorProduct(*MODES["uvu"]), "other": theirs.TensorProduct(*MODES["u<vw"])})
    a = torch.nn.ModuleDict({"tp": o3.TensorProduct(*MODES["uvu"]), "other": o3.TensorProduct(*MODES["u<vw"])})
    assert any("_compiled_main" in key for key in b.state_dict())
    a.load_state_dict(b.state_dict(), strict=True)
    assert torch.equal(a["tp"].weight, b["tp"].weight) and torch.equal(a["other"].weight, b["other"].weight)


def test_our_state_dict_lacks_only_the_compiled_tensors_for_e3nn() -> None:
    a, b = o3.TensorProduct(*MODES["uvu"]), theirs.TensorProduct(*MODES["uvu"])
    keys = b.load_state_dict(a.state_dict(), strict=False)
    assert torch.equal(a.weight, b.weight)
    assert keys.unexpected_keys == [] and all(key.startswith("_compiled_main") for key in keys.missing_keys)


def test_a_state_dict_with_the_signs_of_e3nn_04_is_refused() -> None:
    state = theirs.TensorProduct("2x1o", "2e", "2x2o", [(0, 0, 0, "uvu", True)]).state_dict()
    (key,) = [key for key in state if "_w3j_1_2_2" in key]
    state[key] = -state[key]
    with pytest.raises(RuntimeError, match=r"_w3j_1_2_2 is not the 3j symbol of e3nn 0\.5 and later"):
        o3.TensorProduct("2x1o", "2e", "2x2o", [(0, 0, 0, "uvu", True)]).load_state_dict(state)


def test_an_unknown_key_is_still_refused() -> None:
    tp = o3.TensorProduct(*SUMMED)
    with pytest.raises(RuntimeError, match="Unexpected"):
        tp.load_state_dict({**tp.state_dict(), "weights": torch.zeros(2)})


# --- refusals


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("1o", "1o", "0o", [(0, 0, 0, "uvw", True)]), "0o is not in 1o x 1o"),
        (("1o", "1o", "3e", [(0, 0, 0, "uvw", True)]), "3e is not in 1o x 1o"),
        (("1o", "1o", "0e", [(0, 0, 0, "uwv", True)]), "unknown mode 'uwv'"),
        (("1o", "1o", "0e", [(0, 0, 0, "uvw", False)]), "needs has_weight=True"),
        (("2x1o", "1o", "3x0e", [(0, 0, 0, "uvu", True)]), "gives multiplicity 2; its output has 3"),
        (("2x1o", "1o", "2x0e", [(0, 0, 0, "uuu", True)]), "needs equal multiplicities"),
        (("2x1o", "2x1o", "2x0e", [(0, 0, 0, "uuw", False)]), "gives multiplicity 1"),
        (("1o", "1o", "0e", [(1, 0, 0, "uvw", True)]), "uses in1 segment 1"),
        (("1o", "1o", "0e", [(0, 0, 0, "uvw")]), "instruction 0 is"),
        (("1o", "1o", "0e", [(0, 0, 0, "uvw", True, -1.0)]), "cannot be negative"),
        (("1z", "1o", "0e", []), "cannot read '1z'"),
        (("1o", "1o", "0e", [], [1.0, 1.0]), "in1_var has 2 entries"),
        (("1o", "1o", "0e", [], None, None, None, "components"), "irrep_normalization is one of"),
        (("1o", "1o", "0e", [], None, None, None, None, "elements"), "path_normalization is one of"),
        (("1o", "1o", "0e", [], None, None, None, None, None, True, False), "internal weights are shared"),
    ],
)
def test_an_impossible_product_is_refused_with_its_reason(args: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ProgramError, match=message):
        o3.TensorProduct(*args)


@pytest.mark.parametrize(
    ("x", "y", "w", "message"),
    [
        ((4, 9), (4, 4), (4, 6), r"shape \(4, 9\); its last dimension must be 8"),
        ((4, 8), (4, 3), (4, 6), "its last dimension must be 4"),
        ((4, 8), (4, 4), (4, 5), "weight has shape"),
        ((4, 8), (4, 4), (6,), "weight has shape"),
        ((4, 8), (3, 4), (4, 6), "do not broadcast"),
        ((), (4, 4), (4, 6), "its last dimension must be 8"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(x: Any, y: Any, w: Any, message: str) -> None:
    tp = o3.TensorProduct(*SUMMED, shared_weights=False)
    with pytest.raises(ShapeError, match=message):
        tp(torch.zeros(x), torch.zeros(y), torch.zeros(w))


def test_missing_external_weights_are_refused() -> None:
    tp = o3.TensorProduct(*SUMMED, internal_weights=False)
    with pytest.raises(ShapeError, match="no internal weights"):
        tp(*features(tp, 2))


def test_shared_weights_of_two_dimensions_are_refused() -> None:
    tp = o3.TensorProduct(*SUMMED, internal_weights=False)
    with pytest.raises(ShapeError, match="weight has shape"):
        tp(*features(tp, 2), torch.zeros(2, tp.weight_numel))


@pytest.mark.parametrize("shapes", [[(2, 1)], [(2, 1), (2, 1, 1)], [(2, 1), (3, 2, 1, 2)]])
def test_a_list_of_weights_that_does_not_fit_is_refused(shapes: list[tuple[int, ...]]) -> None:
    tp = o3.TensorProduct(*SUMMED, internal_weights=False)
    with pytest.raises(ShapeError, match="list"):
        tp(*features(tp, 2), [torch.zeros(shape) for shape in shapes])


def test_mixed_dtypes_are_refused() -> None:
    tp = o3.TensorProduct(*SUMMED)
    x, y = features(tp, 2)
    with pytest.raises(ShapeError, match="use one dtype"):
        tp(x, y.float())


def test_what_was_not_compiled_is_refused() -> None:
    tp = o3.TensorProduct(*SUMMED, compile_left_right=False)
    with pytest.raises(ProgramError, match="compile_left_right"):
        tp(*features(tp, 2))
    with pytest.raises(ProgramError, match="compile_right"):
        tp.right(features(tp, 2)[1])


def test_a_view_of_an_unweighted_path_is_refused() -> None:
    with pytest.raises(ProgramError, match="path 1 has no weights"):
        o3.TensorProduct(*SUMMED).weight_view_for_instruction(1)


def test_compiled_and_eager_products_agree() -> None:
    tp = o3.TensorProduct(*SUMMED)
    x, y = features(tp, 3)
    compiled = torch.compile(tp, fullgraph=True, backend="aot_eager")
    assert_equal(compiled(x, y), tp(x, y))
