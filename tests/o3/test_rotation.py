"""Rotations and Wigner D against e3nn's, and what makes them rotations."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from equikern import o3
from equikern.errors import ProgramError

pytest.importorskip("e3nn", minversion="0.6", reason="e3nn 0.6 is what these rotations are compared with")
from e3nn import o3 as theirs

SHAPE = (4, 3)
ANGLES = tuple(torch.rand(*SHAPE, dtype=torch.float64, generator=torch.manual_seed(n)) * 3 for n in range(3))
OTHER = tuple(torch.rand(3, dtype=torch.float64, generator=torch.manual_seed(9 + n)) * 3 for n in range(3))


def arguments(name: str) -> tuple[Any, ...]:
    """Rotations in the form that a function named `form_to_form` or `verb_form` takes."""
    matrix, quaternion = theirs.angles_to_matrix(*ANGLES), theirs.angles_to_quaternion(*ANGLES)
    axis_angle = theirs.angles_to_axis_angle(*ANGLES)
    forms = {"angles": ANGLES, "matrix": (matrix,), "quaternion": (quaternion,), "axis_angle": axis_angle}
    others = {
        "angles": OTHER,
        "quaternion": (theirs.angles_to_quaternion(*OTHER),),
        "axis_angle": theirs.angles_to_axis_angle(*OTHER),
    }
    if name == "angles_to_xyz":
        return ANGLES[:2]
    if name == "xyz_to_angles":
        return (torch.linspace(-1, 1, 36, dtype=torch.float64).reshape(4, 3, 3),)
    if name.startswith("matrix_") and len(name) == len("matrix_x"):
        return ANGLES[:1]
    verb, _, form = name.partition("_")
    if verb == "compose":
        return (*forms[form], *others[form])
    return forms[form] if verb == "inverse" else forms[name.split("_to_")[0]]


PURE = [
    "compose_angles", "inverse_angles", "compose_quaternion", "inverse_quaternion", "compose_axis_angle",
    "matrix_x", "matrix_y", "matrix_z", "angles_to_matrix", "matrix_to_angles", "angles_to_quaternion",
    "matrix_to_quaternion", "axis_angle_to_quaternion", "quaternion_to_axis_angle", "matrix_to_axis_angle",
    "angles_to_axis_angle", "axis_angle_to_matrix", "quaternion_to_matrix", "quaternion_to_angles",
    "axis_angle_to_angles", "angles_to_xyz", "xyz_to_angles",
]  # fmt: skip
CONSTRUCTORS = [
    "rand_matrix", "identity_angles", "rand_angles", "identity_quaternion", "rand_quaternion", "rand_axis_angle",
]  # fmt: skip


@pytest.mark.parametrize("name", PURE)
def test_values_and_gradients_agree_with_e3nn(name: str) -> None:
    results = []
    for module in (o3, theirs):
        leaves = [a.clone().requires_grad_() for a in arguments(name)]
        out = getattr(module, name)(*leaves)
        out = out if isinstance(out, tuple) else (out,)
        loss = sum((torch.linspace(1, 2, a.numel()).reshape(a.shape) * a).sum() for a in out)
        results.append([*out, *torch.autograd.grad(loss, leaves)])
    torch.testing.assert_close(*results, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", CONSTRUCTORS)
@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
def test_the_same_seed_gives_e3nns_rotations(name: str, shape: tuple[int, ...]) -> None:
    results = []
    for module in (o3, theirs):
        torch.manual_seed(5)
        results.append(getattr(module, name)(*shape))
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_constructors_take_dtype_and_requires_grad(name: str) -> None:
    out = getattr(o3, name)(2, requires_grad=True, dtype=torch.float32)
    for a in out if isinstance(out, tuple) else (out,):
        assert a.dtype == torch.float32 and a.requires_grad and a.is_leaf


def test_random_rotations_are_uniform() -> None:
    R = o3.rand_matrix(20000)
    assert R.mean(0).abs().max() < 0.02
    assert (R.square().mean(0) - 1 / 3).abs().max() < 0.02


def test_what_is_no_rotation_is_refused() -> None:
    with pytest.raises(ProgramError, match="determinant 1"):
        o3.matrix_to_angles(-torch.eye(3))
    with pytest.raises(ProgramError, match=r"shape \(\.\.\., 3, 3\)"):
        o3.matrix_to_axis_angle(torch.eye(2))


# --- Wigner D, 3j symbols, generators


@pytest.mark.parametrize("l", range(9))
def test_wigner_d_agrees_with_e3nn(l: int) -> None:  # noqa: E741
    torch.testing.assert_close(o3.wigner_D(l, *ANGLES), theirs.wigner_D(l, *ANGLES), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("l", [1, 4, 12])
def test_wigner_d_is_a_representation(l: int) -> None:  # noqa: E741
    product = o3.wigner_D(l, *ANGLES) @ o3.wigner_D(l, *OTHER)
    composed = o3.wigner_D(l, *o3.compose_angles(*ANGLES, *OTHER))
    torch.testing.assert_close(composed, product, rtol=1e-10, atol=1e-10)


def test_wigner_d_of_single_precision_angles_is_single() -> None:
    d = o3.wigner_D(5, *(a.float() for a in ANGLES))
    assert d.dtype == torch.float32
    torch.testing.assert_close(d.double(), o3.wigner_D(5, *ANGLES), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("triple", [(0, 0, 0), (1, 1, 1), (1, 2, 2), (2, 3, 4), (6, 5, 3)])
def test_3j_symbols_agree_with_e3nn(triple: tuple[int, int, int]) -> None:
    torch.testing.assert_close(o3.wigner_3j(*triple), theirs.wigner_3j(*triple), rtol=1e-12, atol=1e-12)
    assert o3.wigner_3j(*triple, dtype=torch.float32).dtype == torch.float32


def test_a_3j_symbol_may_be_changed_by_its_caller() -> None:
    o3.wigner_3j(1, 1, 1).zero_()
    assert o3.wigner_3j(1, 1, 1).count_nonzero() == 6


def test_an_impossible_3j_symbol_is_refused() -> None:
    with pytest.raises(ProgramError, match="triangle"):
        o3.wigner_3j(1, 1, 3)


@pytest.mark.parametrize("l", range(5))
@pytest.mark.parametrize("name", ["su2_generators", "so3_generators", "change_basis_real_to_complex"])
def test_generators_and_bases_agree_with_e3nn(name: str, l: int) -> None:  # noqa: E741
    torch.testing.assert_close(getattr(o3, name)(l), getattr(theirs, name)(l), rtol=1e-12, atol=1e-12)


def test_a_change_of_basis_has_the_complex_dtype_of_a_real_one() -> None:
    assert o3.change_basis_real_to_complex(1, torch.float32).dtype == torch.complex64
    with pytest.raises(ProgramError, match="float32 and float64"):
        o3.change_basis_real_to_complex(1, torch.float16)


@pytest.mark.parametrize("l", [-1, 1.0])
def test_a_degree_that_is_none_is_refused(l: Any) -> None:  # noqa: E741
    with pytest.raises(ProgramError, match="a degree is an integer"):
        o3.wigner_D(l, *ANGLES)
