"""Spherical Bessel functions, their zeros and the basis made of them: scipy's values, derivatives, orthonormality."""

import numpy as np
import pytest
import torch

from equikern.errors import EquikernError
from equikern.ops.radial import spherical_bessel, spherical_j

special = pytest.importorskip("scipy.special", reason="scipy is not installed")
R_MAX = 4.5
LENGTHS = np.concatenate([np.linspace(0, 60, 2001), np.logspace(-8, 0, 100)])


@pytest.mark.parametrize("l", range(11))
def test_values_and_slopes_are_scipys(l):  # noqa: E741
    x = torch.from_numpy(LENGTHS).requires_grad_()
    value = spherical_j(l, x)
    (slope,) = torch.autograd.grad(value.sum(), x)
    assert np.abs(value.detach().numpy() - special.spherical_jn(l, LENGTHS)).max() < 4e-15
    assert np.abs(slope.numpy() - special.spherical_jn(l, LENGTHS, True)).max() < 1e-14


def test_each_column_is_the_normalised_function_of_its_zero():
    r = torch.linspace(0, R_MAX, 37, dtype=torch.float64)
    got = spherical_bessel(r, 7, 6, R_MAX).numpy()
    for l in range(7):  # noqa: E741
        crossings = LENGTHS[:2001][np.diff(np.sign(special.spherical_jn(l, LENGTHS[:2001])), append=0) != 0]
        low = crossings[crossings > 0.5][:6]
        zeros = low - special.spherical_jn(l, low) / special.spherical_jn(l, low, True)
        for _ in range(5):
            zeros = zeros - special.spherical_jn(l, zeros) / special.spherical_jn(l, zeros, True)
        norm = np.abs(special.spherical_jn(l + 1, zeros)) / np.sqrt(2)
        expected = special.spherical_jn(l, zeros * r.numpy()[:, None] / R_MAX) / norm
        assert np.abs(got[:, l] - expected).max() < 1e-13


def test_functions_of_a_degree_are_orthonormal_in_the_unit_ball():
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(80))
    t = (nodes + 1) / 2
    basis = spherical_bessel(t * R_MAX, 5, 4, R_MAX)
    products = torch.einsum("t,tli,tlj->lij", weights / 2 * t**2, basis, basis)
    torch.testing.assert_close(products, torch.eye(4).double().expand(5, 4, 4), rtol=1e-12, atol=1e-12)


def test_derivatives_are_right_also_where_the_series_ends_and_at_zero():
    r = torch.tensor([0.0, 0.3, 1.0, 1.27, 1.28, 2.9, 4.4], dtype=torch.float64, requires_grad=True)
    basis = lambda r: spherical_bessel(r, 7, 3, R_MAX)  # noqa: E731
    assert torch.autograd.gradcheck(basis, (r[1:],)) and torch.autograd.gradgradcheck(basis, (r[1:],), fast_mode=True)
    (slope,) = torch.autograd.grad(basis(r).sum(), r, create_graph=True)
    assert torch.autograd.grad(slope.sum(), r)[0].isfinite().all()


def test_degrees_that_cannot_be_are_refused():
    with pytest.raises(EquikernError, match="degrees is an integer >= 1"):
        spherical_bessel(torch.ones(2), 0, 3, R_MAX)
