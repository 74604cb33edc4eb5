"""Angles and torsions: the published definition where it holds, and no jumps where it jumps."""

import numpy as np
import pytest
import torch

from equikern.ops.torsion import IN_LINE, legendre, torsion_harmonics

special = pytest.importorskip("scipy.special", reason="scipy is not installed")
CUTOFF, DEGREES = 5.0, 4
F64 = torch.float64


def star(neighbours):
    """Edges of an atom s at the origin: its neighbours (n, 3) to it, and it to the last of them, r."""
    return torch.cat([neighbours, -neighbours[-1:]])


def pairs_of(n):
    """Every q but r with the edge s -> r."""
    return torch.stack([torch.arange(n - 1), torch.full((n - 1,), n)])


def evaluate(neighbours, degrees=DEGREES):
    vec = star(neighbours)
    length = vec.norm(dim=1)
    return torsion_harmonics(vec / length[:, None], length, pairs_of(len(neighbours)), degrees, CUTOFF)


def published(neighbours):
    """(theta, phi) of each q: the smallest turn, right-handed about s -> r, to another q', at most a whole one."""
    *others, r = neighbours.numpy()
    axis, found = r / np.linalg.norm(r), []
    for n, q in enumerate(others):
        turns = [2 * np.pi]
        for m, other in enumerate(others):
            a, b = np.cross(r, q), np.cross(r, other)
            if m != n:
                turns.append(np.arctan2(np.cross(a, b) @ axis, a @ b) % (2 * np.pi))
        found.append((np.arccos(q @ axis / np.linalg.norm(q)), min(turns)))
    return found


def real_harmonics(theta, phi):
    """Orthonormal real harmonics, m = -l ... l: sines, then cosines."""
    values = []
    for l in range(DEGREES):  # noqa: E741
        for m in range(-l, l + 1):
            y = special.sph_harm_y(l, abs(m), theta, phi) * (-1) ** m * np.sqrt(2 if m else 1)
            values.append(y.imag if m < 0 else y.real)
    return values


# In general position: all angles from the axis and between azimuths exceed six degrees.
GENERAL = torch.tensor(
    [[1.0, 0.2, 0.3], [-0.5, 1.1, -0.2], [0.3, -0.9, 0.8], [-0.7, -0.4, -1.2], [0.1, 0.3, 1.4]], dtype=F64
)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_in_general_position_they_are_the_published_angles_and_torsions(n):
    neighbours = GENERAL[-n:]
    zonal, harmonics = evaluate(neighbours)
    expected = np.array([real_harmonics(theta, phi) for theta, phi in published(neighbours)])
    assert np.abs(harmonics.numpy() - expected).max() < 1e-13
    assert np.abs(zonal.numpy() - expected[:, [0, 2, 6, 12]]).max() < 1e-13


def test_legendre_functions_are_scipys():
    x = torch.linspace(-1, 1, 11, dtype=F64)
    expected = np.stack([np.sqrt((2 * n + 1) / (4 * np.pi)) * special.eval_legendre(n, x.numpy()) for n in range(6)], 1)
    assert np.abs(legendre(x, 6).numpy() - expected).max() < 1e-14
    assert legendre(x, 1).shape == (11, 1)


def path(name, t):
    """Three neighbours of s and r, of which the second moves with t in [0, 1]."""
    q = torch.stack([torch.tensor([1.0, 0.0, 0.2], dtype=F64)] * 3)
    q[2] = torch.tensor([-0.6, -0.9, 0.3], dtype=F64)
    turn = 0.2 + 2 * torch.pi * t
    if name == "all the way round":
        q[1] = torch.stack([turn.cos(), turn.sin(), 0 * t - 0.4])
    elif name == "through the axis":
        q[1] = torch.stack([1 - 2 * t, 0 * t, 0 * t + 0.9])
    elif name == "out of the cutoff":
        q[1] = torch.stack([0 * t, 1 + 5 * t, 0 * t])
    return torch.cat([q, torch.tensor([[0.0, 0.0, 1.3]], dtype=F64)])


@pytest.mark.parametrize("name", ["all the way round", "through the axis", "out of the cutoff"])
def test_a_neighbour_that_moves_changes_them_without_a_jump(name):
    weights = torch.randn(3, DEGREES**2, dtype=F64)
    values, slopes = [], []
    for t in torch.linspace(0, 1, 401, dtype=F64):
        t = t.clone().requires_grad_()
        value = (evaluate(path(name, t))[1] * weights).sum()
        values.append(value.detach())
        slopes.append(torch.autograd.grad(value, t)[0])
    values, slopes = torch.stack(values), torch.stack(slopes)
    # Over a step the slopes' mean accounts for the change, to second order; over a kink to first.
    error = values.diff() - (slopes[1:] + slopes[:-1]) / 2 / 400
    assert values.std() > 0.1
    assert error.abs().max() < 5e-4 * slopes.abs().max()


def test_torsions_of_equal_azimuths_and_their_slopes_do_not_depend_on_rounding():
    # The edge is z; two neighbours in one half-plane through it, two in another, as in a planar molecule.
    halves = torch.tensor([[0.4, 1.0, 0.3], [0.4, 0.7, -0.8], [1.9, 0.9, 0.2], [1.9, 1.6, 1.1]], dtype=F64)
    azimuth, out, up = halves.T
    flat = torch.cat([torch.stack([out * azimuth.cos(), out * azimuth.sin(), up], 1), torch.eye(3)[2:]])
    weights = torch.randn(4, DEGREES**2, dtype=F64)

    def value_and_slopes(neighbours):
        x = neighbours.clone().requires_grad_()
        value = evaluate(x)[1]
        return value.detach(), torch.autograd.grad((value * weights).sum(), x)[0]

    expected, slopes = value_and_slopes(flat)
    for _ in range(30):
        q = torch.linalg.qr(torch.randn(3, 3, dtype=F64)).Q
        turn = q * torch.linalg.det(q)
        got, got_slopes = value_and_slopes(flat @ turn.T)
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(got_slopes, slopes @ turn.T, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_a_neighbour_in_line_with_the_edge_has_only_harmonics_of_order_zero_and_finite_derivatives(side):
    neighbours = torch.tensor([[0, 0, side], [1.0, 0.3, 0.2], [0, 0, 1.3]], dtype=F64, requires_grad=True)
    zonal, harmonics = evaluate(neighbours)
    expected = torch.zeros(DEGREES**2, dtype=F64).index_add(0, torch.tensor([0, 2, 6, 12]), zonal[0])
    torch.testing.assert_close(harmonics[0], expected)
    (slope,) = torch.autograd.grad((harmonics**2).sum() + zonal.sum(), neighbours, create_graph=True)
    assert torch.autograd.grad(slope.square().sum(), neighbours)[0].isfinite().all()


def test_second_derivatives_are_right_inside_the_fading_angles():
    angle = (sum(IN_LINE) / 2) ** 0.5
    neighbours = GENERAL.clone()
    neighbours[0] = torch.tensor([angle, 0.01, 1.0], dtype=F64)
    neighbours[-1] = torch.tensor([0, 0, 1.3], dtype=F64)
    neighbours.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: evaluate(x, 3), (neighbours,))
    assert torch.autograd.gradgradcheck(lambda x: evaluate(x, 3), (neighbours,))
