"""A radial basis times a cutoff: the published functions, and refusals. The kernels' tests are in tests/backends."""

import pytest
import torch

from equikern.backends._radial import RadialSpec, parse_radial
from equikern.errors import BackendError, EquikernError, ShapeError
from equikern.ops import radial, radial_embedding

SPECS = [
    RadialSpec("bessel", 5, 4.0, 0.7, "polynomial", 6),
    RadialSpec("bessel", 3, 4.0, 1.0, "cosine", 2),
    RadialSpec("gaussian", 6, 4.0, 2.0, "none", 2),
]
LENGTHS = torch.tensor([0.0, 1e-3, 0.7, 1.9, 2.6, 3.9, 4.5], dtype=torch.float64)


@pytest.mark.parametrize("prefactor", radial.PREFACTORS)
def test_it_is_the_product_of_the_published_functions(prefactor):
    got = radial_embedding(LENGTHS, 5, 4.0, prefactor=prefactor, p=5, scale=3.0)
    cutoff = radial.polynomial_cutoff(LENGTHS, 4.0, 5).unsqueeze(1)
    torch.testing.assert_close(got, 3 * radial.bessel(LENGTHS, 5, 4.0, prefactor) * cutoff, rtol=1e-14, atol=1e-15)
    got = radial_embedding(LENGTHS, 5, 4.0, basis="gaussian", cutoff="cosine")
    expected = radial.gaussian(LENGTHS, 5, 4.0) * radial.cosine_cutoff(LENGTHS, 4.0).unsqueeze(1)
    torch.testing.assert_close(got, expected, rtol=1e-14, atol=1e-15)


def test_a_specification_is_read_back():
    for spec in SPECS:
        assert parse_radial(spec.text) == spec


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"basis": "sine"}, "unknown basis"),
        ({"cutoff": "hard"}, "unknown cutoff"),
        ({"prefactor": "one"}, "unknown prefactor"),
        ({"p": 1}, "p is an integer"),
        ({"n": 0}, "number of functions"),
        ({"basis": "gaussian", "n": 1}, "number of functions"),
        ({"r_max": -1.0}, "finite length"),
    ],
)
def test_what_it_does_not_know_is_refused(change, message):
    with pytest.raises(EquikernError, match=message):
        radial_embedding(LENGTHS, **({"n": 4, "r_max": 4.0} | change))


def test_other_shapes_are_refused():
    with pytest.raises(ShapeError, match="lengths"):
        radial_embedding(LENGTHS.view(7, 1), 4, 4.0)


def test_a_backend_without_kernels_is_refused_by_the_op():
    with pytest.raises(BackendError, match="it has no kernel"):
        torch.ops.equikern.radial(SPECS[0].text, "reference", LENGTHS, 0)
