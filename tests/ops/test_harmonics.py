"""Spherical harmonics: e3nn's values, both backends alike, derivatives to third order, what bad input gives."""

from __future__ import annotations

from collections.abc import Callable
from math import isnan

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

from equikern.backends import cpu_harmonics, reference_harmonics
from equikern.backends._harmonics import parse_spec
from equikern.errors import BackendError, ProgramError, ShapeError
from equikern.o3._spherical_harmonics import SphericalHarmonics
from equikern.o3._spherical_harmonics import spherical_harmonics as o3_spherical_harmonics
from equikern.ops.engine import direct
from equikern.ops.harmonics import spherical_harmonics
from equikern.program import wigner_d

ops = torch.ops.equikern
BACKENDS = ("cpu", "reference")
DEGREES = ("0", "1", "0,1,2,3", "3", "2,0,2,5", "0,1,2,3,4,5,6", "7,1", "0,1,2,3,4,5,6,7,8,9,10,11,12")
NORMALIZATIONS = ("integral", "component", "norm")
SMALL = ("sh 0,1,2,3 component normalize", "sh 0,1,2,3 component raw", "sh 2,0,2 integral normalize", "sh 4,1 norm raw")


def sample(
    spec: str, edges: int, dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """vec of lengths near 1, z and h."""
    generator = torch.Generator().manual_seed(edges)
    vec, h = torch.randn(2, edges, 3, dtype=dtype, generator=generator)
    length = 0.8 + 0.4 * torch.rand(edges, 1, dtype=dtype, generator=generator)
    z = torch.randn(edges, parse_spec(spec).dim, dtype=dtype, generator=generator)
    return vec / vec.norm(dim=1, keepdim=True) * length, z, h


def orders(backend: str, spec: str, vec: torch.Tensor, z: torch.Tensor, h: torch.Tensor) -> list[torch.Tensor]:
    """Value, gradient and both second derivatives."""
    first = [ops.harmonics(spec, backend, vec), ops.harmonics_backward(spec, backend, vec, z)]
    return [*first, *ops.harmonics_double_backward(spec, backend, vec, z, h)]


def relative(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference over the largest expected magnitude; absolute where that is zero, infinite for NaN."""
    if got.shape != expected.shape:
        return float("inf")
    if expected.numel() == 0:
        return 0.0
    scale = expected.abs().max().item()
    difference = (got.double() - expected).abs().max().item() / (scale or 1.0)
    return float("inf") if isnan(difference) else difference


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("backend", BACKENDS)
def test_values_are_those_of_e3nn_for_every_degree(backend, normalize, normalization):
    o3 = pytest.importorskip("e3nn.o3", reason="compares with e3nn itself")
    vec, _, _ = sample("sh 0 norm raw", 200)
    for l in range(13):  # noqa: E741
        got = spherical_harmonics(l, vec, normalize, normalization, backend=backend)
        assert relative(got, o3.spherical_harmonics(l, vec, normalize, normalization)) < 1e-13, l


@pytest.mark.parametrize("degrees", [[3, 0, 3, 1], [12], [5, 2]])
def test_lists_with_gaps_and_repeats_are_those_of_e3nn(degrees):
    o3 = pytest.importorskip("e3nn.o3", reason="compares with e3nn itself")
    vec, _, _ = sample("sh 0 norm raw", 33)
    got = spherical_harmonics(degrees, vec, True, "component")
    assert relative(got, o3.spherical_harmonics(degrees, vec, True, "component")) < 1e-13


@pytest.mark.parametrize("spec", SMALL)
def test_reference_derivatives_are_those_of_autograd_through_its_value(spec):
    vec, z, h = (tensor.requires_grad_() for tensor in sample(spec, 7))
    (gradient,) = torch.autograd.grad((reference_harmonics.harmonics(spec, vec) * z).sum(), vec, create_graph=True)
    # The gradient depends on z even where no degree above 1 makes it depend on vec.
    second = torch.autograd.grad((gradient * h).sum(), (vec, z), allow_unused=True)
    got = orders("reference", spec, vec, z, h)[1:]
    assert max(relative(a, b) for a, b in zip(got, (gradient, *second), strict=True)) < 1e-13


@pytest.mark.parametrize("edges", [0, 1, 5, 17, 1000])
@pytest.mark.parametrize("normalize", ["normalize", "raw"])
@pytest.mark.parametrize("degrees", DEGREES)
def test_cpu_agrees_with_reference_in_float64(degrees, normalize, edges):
    spec = f"sh {degrees} component {normalize}"
    arrays = sample(spec, edges)
    pairs = zip(orders("cpu", spec, *arrays), orders("reference", spec, *arrays), strict=True)
    assert max(relative(got, expected) for got, expected in pairs) < 1e-14


@pytest.mark.parametrize("edges", [1, 17, 1000])
@pytest.mark.parametrize("normalize", ["normalize", "raw"])
@pytest.mark.parametrize("degrees", DEGREES)
def test_cpu_float32_agrees_with_the_float64_reference(degrees, normalize, edges):
    spec = f"sh {degrees} integral {normalize}"
    arrays = sample(spec, 1000, torch.float32)
    expected = orders("reference", spec, *(array.double() for array in arrays))
    got = orders("cpu", spec, *(array[:edges] for array in arrays))
    # The scale is that of the whole sample: on a single edge the terms of a second derivative may cancel.
    errors = [(a.double() - b[:edges]).abs().max() / (b.abs().max() or 1) for a, b in zip(got, expected, strict=True)]
    assert all(error < 1e-6 for error in errors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_non_contiguous_operands_give_the_same_bits(dtype):
    spec = "sh 0,1,2,3 component normalize"
    arrays = sample(spec, 37, dtype)
    strided = [torch.stack([array, array], dim=-1)[..., 0] for array in arrays]
    assert not strided[0].is_contiguous()
    assert all(
        torch.equal(a, b) for a, b in zip(orders("cpu", spec, *strided), orders("cpu", spec, *arrays), strict=True)
    )


@pytest.mark.parametrize("degrees", ["0,1,2,3", "8"])
def test_one_and_two_threads_give_the_same_bits(degrees):
    spec = f"sh {degrees} component normalize"
    arrays = sample(spec, 5003, torch.float32)
    torch.set_num_threads(1)
    one = orders("cpu", spec, *arrays)
    torch.set_num_threads(2)
    assert all(torch.equal(a, b) for a, b in zip(one, orders("cpu", spec, *arrays), strict=True))


@pytest.mark.parametrize("spec", SMALL)
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_to_third_order_and_forward_mode_pass_gradcheck(backend, spec):
    vec, z, h = (tensor.requires_grad_() for tensor in sample(spec, 3))
    calls = [(lambda v: ops.harmonics(spec, backend, v), (vec,), True)]
    calls += [(lambda v, z: ops.harmonics_backward(spec, backend, v, z), (vec, z), True)]
    calls += [(lambda v, z, h: ops.harmonics_double_backward(spec, backend, v, z, h), (vec, z, h), False)]
    for call, inputs, forward_mode in calls:
        assert torch.autograd.gradcheck(call, inputs, fast_mode=True, check_forward_ad=forward_mode)
        assert torch.autograd.gradgradcheck(call, inputs, fast_mode=True)


def test_third_derivative_keeps_apart_operands_that_depend_on_each_other():
    spec = "sh 1,2,3 component normalize"
    vec, z, _ = sample(spec, 2)
    vec.requires_grad_()

    def third(harmonics: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        # The cotangent that reaches the harmonics depends on vec, through tanh.
        result = (harmonics(vec).tanh() * z).sum()
        for _ in range(3):
            result = torch.autograd.grad(result, vec, create_graph=True)[0].square().sum()
        return torch.autograd.grad(result, vec)[0]

    got = third(lambda v: ops.harmonics(spec, "cpu", v))
    assert relative(got, third(lambda v: reference_harmonics.harmonics(spec, v))) < 1e-12


@pytest.mark.parametrize("name", ["harmonics", "harmonics_backward", "harmonics_double_backward"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_ops_pass_opcheck(backend, name):
    spec = "sh 0,1,2 component normalize"
    operands = [tensor.requires_grad_() for tensor in sample(spec, 5)]
    count = {"harmonics": 1, "harmonics_backward": 2, "harmonics_double_backward": 3}[name]
    result = torch.library.opcheck(getattr(ops, name).default, (spec, backend, *operands[:count]))
    assert set(result.values()) == {"SUCCESS"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_values_and_gradients_agree_with_eager():
    def energy(vec: torch.Tensor) -> torch.Tensor:
        return (spherical_harmonics([0, 1, 2], vec, True) * torch.arange(9)).square().sum()

    vec = sample("sh 0 norm raw", 11)[0].requires_grad_()
    got, expected = torch.compile(energy, fullgraph=True)(vec), energy(vec)
    pairs = [(got, expected), (torch.autograd.grad(got, vec)[0], torch.autograd.grad(expected, vec)[0])]
    assert max(relative(a, b) for a, b in pairs) < 1e-13


def test_nothing_is_computed_that_nobody_asked_for(monkeypatch):
    spec = "sh 1,2 component normalize"
    vec, z, h = (tensor.requires_grad_() for tensor in sample(spec, 3))
    asked = []
    kernel = cpu_harmonics.harmonics_double_backward

    def spy(*args):
        asked.append(args[-2:])
        return kernel(*args)

    monkeypatch.setattr(cpu_harmonics, "harmonics_double_backward", spy)
    for wanted in (vec,), (z,), (vec, z):
        gradient = ops.harmonics_backward(spec, "cpu", vec, z)
        torch.autograd.grad(gradient, wanted, h.detach())
    assert asked == [(True, False), (False, True), (True, True)]


@pytest.mark.parametrize("edges", [15, 16, 31, 33])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_row_is_written_where_the_last_block_is_short(dtype, edges):
    spec = "sh 0,1,2,3,4 component normalize"
    arrays = sample(spec, edges, dtype)
    pairs = zip(orders("cpu", spec, *arrays), orders("reference", spec, *arrays), strict=True)
    assert max(relative(got, expected) for got, expected in pairs) < 20 * torch.finfo(dtype).eps


def test_past_the_dispatcher_go_only_calls_that_nothing_watches():
    vec = sample("sh 0 norm raw", 5)[0]
    seen = []

    def call(v: torch.Tensor) -> torch.Tensor:
        seen.append(direct(v))
        return spherical_harmonics([1, 2], v, True)

    expected = call(vec)
    with torch.inference_mode():
        call(vec)
    with torch.no_grad():
        call(vec.clone().requires_grad_())
    assert seen == [True] * 3
    negative = torch.complex(torch.zeros_like(vec), -vec).conj().imag  # stores -vec, and a mark to negate it
    assert negative.is_neg() and torch.equal(call(negative), expected)
    graph = make_fx(call)(vec)
    assert "equikern.harmonics" in graph.code and torch.equal(graph(vec), expected)
    with torch.profiler.profile() as profile:
        call(vec)
    assert any("equikern::harmonics" in event.name for event in profile.events())
    call(vec.clone().requires_grad_())
    with FakeTensorMode() as mode:
        assert call(mode.from_tensor(vec)).shape == (5, 8)
    with torch.autograd.forward_ad.dual_level():
        call(torch.autograd.forward_ad.make_dual(vec, vec))
    with FlopCounterMode(display=False):
        call(vec)
    assert seen[3:] == [False] * 7


def test_forward_mode_through_the_double_backward_is_refused():
    spec = "sh 1,2 component raw"
    vec, z, h = sample(spec, 2)
    with torch.autograd.forward_ad.dual_level(), pytest.raises(BackendError, match="reverse mode"):
        ops.harmonics_double_backward(spec, "cpu", torch.autograd.forward_ad.make_dual(vec, h), z, h)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("backend", BACKENDS)
def test_normalized_zero_vector_has_zero_harmonics_and_zero_derivatives(backend, dtype):
    spec = "sh 0,1,2,3 component normalize"
    vec, z, h = sample(spec, 5, dtype)
    vec[2] = 0
    value, *derivatives = (result[2] for result in orders(backend, spec, vec, z, h))
    assert value[0] == 1 and not value[1:].any() and not any(result.any() for result in derivatives)


@pytest.mark.parametrize("backend", BACKENDS)
def test_third_derivative_at_a_normalized_zero_vector_is_zero(backend):
    spec = "sh 0,1,2,3 component normalize"
    vec, z, h = (tensor.requires_grad_() for tensor in sample(spec, 1))
    vec = torch.zeros_like(vec, requires_grad=True)
    dvec, dz = ops.harmonics_double_backward(spec, backend, vec, z, h)
    third = torch.autograd.grad((dvec.sum() + dz.sum()), (vec, z, h))
    assert not any(gradient.any() for gradient in third)


@pytest.mark.parametrize("backend", BACKENDS)
def test_raw_zero_vector_has_the_derivatives_of_the_polynomial(backend):
    vec = torch.zeros(1, 3, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(
        lambda v: spherical_harmonics([1, 2], v, False, "component", backend=backend)[0], vec
    )[:, 0]
    expected = torch.cat([3**0.5 * torch.eye(3, dtype=torch.float64), torch.zeros(5, 3, dtype=torch.float64)])
    assert relative(jacobian, expected) < 1e-15


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("exponent", [-1, 1])
@pytest.mark.parametrize("backend", BACKENDS)
def test_normalized_vectors_whose_square_over_or_underflows_are_normalized(backend, exponent, dtype):
    vec = sample("sh 0 norm raw", 20, dtype)[0]
    size = torch.finfo(dtype).max ** 0.9
    got = spherical_harmonics([1, 2], vec * size**exponent, True, backend=backend)
    assert relative(got, spherical_harmonics([1, 2], vec.double(), True, backend="reference")) < 1e-6


@pytest.mark.parametrize("component", [0, 1, 2])
@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_gives_nan_in_its_own_row_and_nowhere_else(backend, component):
    spec = "sh 1,2,3 component normalize"
    vec, z, h = sample(spec, 20)
    vec[7, component] = float("nan")
    others = torch.arange(20) != 7
    results = orders(backend, spec, vec, z, h)
    assert all(result[7].isnan().all() and result[others].isfinite().all() for result in results)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_in_a_raw_vector_is_not_swallowed(backend):
    vec = torch.full((3, 3), float("nan"), dtype=torch.float64)
    assert spherical_harmonics([1, 2, 3], vec, False, backend=backend).isnan().all()


@given(angles=st.tuples(*[st.floats(-3.1, 3.1)] * 3), l=st.integers(0, 12), normalize=st.booleans())
def test_harmonics_rotate_with_the_wigner_matrix(angles, l, normalize):  # noqa: E741
    generator = torch.zeros(3, 3, dtype=torch.float64)
    generator[0, 1], generator[0, 2], generator[1, 2] = angles
    rotation = torch.linalg.matrix_exp(generator - generator.T)
    vec, _, _ = sample("sh 0 norm raw", 9)
    turned = spherical_harmonics(l, vec @ rotation.T, normalize)
    expected = spherical_harmonics(l, vec, normalize) @ torch.from_numpy(wigner_d(l, rotation.numpy())).T
    assert relative(turned, expected) < 1e-12


@given(l=st.integers(0, 12))
def test_inversion_gives_the_parity_of_the_degree(l):  # noqa: E741
    vec, _, _ = sample("sh 0 norm raw", 9)
    assert torch.equal(spherical_harmonics(l, -vec, True), (-1) ** l * spherical_harmonics(l, vec, True))


@pytest.mark.parametrize("shape", [(3,), (2, 4, 3), (0, 3), (2, 0, 3)])
def test_leading_dimensions_are_kept(shape):
    assert spherical_harmonics([0, 2], torch.randn(shape), True).shape == (*shape[:-1], 6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_run_on_the_reference_and_keep_their_dtype(dtype):
    vec = sample("sh 0 norm raw", 9)[0].to(dtype).requires_grad_()
    value = spherical_harmonics([0, 1, 2], vec, True)
    (gradient,) = torch.autograd.grad(value.sum(), vec)
    expected = spherical_harmonics([0, 1, 2], vec.double(), True)
    assert value.dtype == gradient.dtype == dtype and relative(value, expected) < torch.finfo(dtype).eps


@pytest.mark.parametrize("shape", [(3, 4), (4,), ()])
def test_input_without_three_columns_is_refused_naming_its_shape(shape):
    with pytest.raises(ShapeError, match=str(shape).replace("(", r"\(").replace(")", r"\)")):
        spherical_harmonics(1, torch.zeros(shape), True)


def test_integer_input_is_refused():
    with pytest.raises(ShapeError, match="floating-point"):
        spherical_harmonics(1, torch.zeros(2, 3, dtype=torch.int64), True)


def test_cotangents_that_do_not_fit_are_refused_by_name():
    vec, z, h = sample("sh 1 norm raw", 4)
    for operands, name in (((vec, z[:3], h), "z"), ((vec, z, h[:, :2]), "h"), ((vec, z.float(), h), "z")):
        with pytest.raises(ShapeError, match=f"'{name}'"):
            ops.harmonics_double_backward("sh 1 norm raw", "cpu", *operands)


@pytest.mark.parametrize("degrees", [13, -1, [], [0, 1.5], "0e"])
def test_degrees_that_cannot_be_are_refused(degrees):
    with pytest.raises(ProgramError):
        spherical_harmonics(degrees, torch.zeros(2, 3), True)


def test_unknown_normalization_backend_and_text_are_refused():
    vec = torch.zeros(2, 3)
    with pytest.raises(ProgramError, match="integral, component, norm"):
        spherical_harmonics(1, vec, True, "unit")
    with pytest.raises(BackendError, match="cpu, triton, cuda, reference"):
        spherical_harmonics(1, vec, True, backend="abacus")
    with pytest.raises(BackendError, match="float32 and float64"):
        spherical_harmonics(1, vec.half(), True, backend="cpu")
    with pytest.raises(ProgramError, match="write like"):
        ops.harmonics("sh 1 norm", "cpu", vec)


@pytest.mark.parametrize(
    ("irreps_out", "irreps_in"),
    [(2, None), ([0, 1, 3], None), ("0e+1o+2e", None), ("0e+1e+2e", None), ("2x1o+2e", "1o"), ([1, 2], "1e")],
)
def test_module_has_the_attributes_and_values_of_e3nn(irreps_out, irreps_in):
    o3 = pytest.importorskip("e3nn.o3", reason="compares with e3nn itself")
    ours = SphericalHarmonics(irreps_out, True, "component", irreps_in)
    theirs = o3.SphericalHarmonics(irreps_out, True, "component", irreps_in)
    for name in ("normalize", "normalization", "_ls_list", "_lmax"):
        assert getattr(ours, name) == getattr(theirs, name), name
    for name in ("irreps_in", "irreps_out"):
        assert str(getattr(ours, name)) == str(getattr(theirs, name)), name
    vec = torch.randn(10, 3, dtype=torch.float64)
    assert relative(ours(vec), theirs(vec)) < 1e-13


def test_module_reads_the_irreps_objects_of_e3nn():
    o3 = pytest.importorskip("e3nn.o3", reason="reads e3nn's own objects")
    assert str(SphericalHarmonics(o3.Irreps("0e+1o"), True).irreps_out) == "1x0e+1x1o"


def test_function_of_o3_takes_irreps():
    vec = torch.randn(4, 3)
    assert torch.equal(o3_spherical_harmonics("0e+1o", vec, True), spherical_harmonics([0, 1], vec, True))


@pytest.mark.parametrize(("irreps_out", "irreps_in"), [("1e+2o", None), ("1o", "1e"), ("1o", "0e"), ("1o", "2x1o")])
def test_parities_that_do_not_follow_from_the_input_are_refused(irreps_out, irreps_in):
    with pytest.raises(ProgramError):
        SphericalHarmonics(irreps_out, True, irreps_in=irreps_in)
