"""The bases of SphereNet in distance and angle are those of torch_geometric's DimeNet."""

import pytest
import torch

dimenet = pytest.importorskip("torch_geometric.nn.models.dimenet", reason="torch_geometric is not installed")
from equikern.models.spherenet import RadialBasis  # noqa: E402
from equikern.ops.radial import polynomial_cutoff, spherical_bessel  # noqa: E402
from equikern.ops.torsion import legendre  # noqa: E402

CUTOFF, DEGREES, COUNT, EXPONENT = 4.5, 4, 4, 5


def distances():
    return torch.linspace(0.4, CUTOFF, 97, dtype=torch.float64)  # theirs is not for lengths near zero


def test_the_radial_basis_is_theirs():
    theirs = dimenet.BesselBasisLayer(COUNT, CUTOFF, EXPONENT).double()
    with torch.no_grad():
        theirs.freq.copy_(torch.arange(1, COUNT + 1) * torch.pi)
        ours = RadialBasis(COUNT, CUTOFF).double()
        ours.frequency.copy_(theirs.freq)
        torch.testing.assert_close(ours(distances()), theirs(distances()), rtol=1e-12, atol=1e-12)


def test_the_angular_basis_is_theirs():
    layer = dimenet.SphericalBasisLayer(DEGREES, COUNT, CUTOFF, EXPONENT)
    r, angle = distances(), torch.linspace(0.01, 3.1, 97, dtype=torch.float64)
    expected = layer(r, angle, torch.arange(97))
    # Theirs has 1 / t in the envelope.
    envelope = polynomial_cutoff(r, CUTOFF, EXPONENT + 1) * CUTOFF / r
    radial = spherical_bessel(r, DEGREES, COUNT, CUTOFF) * envelope.reshape(-1, 1, 1)
    got = (radial * legendre(angle.cos(), DEGREES).unsqueeze(2)).flatten(1)
    # Their zeros of j_l are float32 numbers.
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))
