"""Softmax by segment: torch's softmax where it applies, weights, derivatives, extreme logits, empty segments."""

import pytest
import torch

from equikern.errors import ShapeError
from equikern.ops.segment import softmax

SEGMENT = torch.tensor([3, 0, 3, 1, 0, 3, 0])


def logits(heads=2):
    return torch.randn(7, heads, dtype=torch.float64, requires_grad=True)


def test_each_segment_is_torchs_softmax_of_its_rows():
    given = logits()
    got = softmax(given, SEGMENT, 5)
    for n in (0, 1, 3):
        torch.testing.assert_close(got[n == SEGMENT], given[n == SEGMENT].softmax(0), rtol=1e-14, atol=1e-15)


def test_weights_are_added_logarithms():
    given, weight = logits(), torch.rand(7, dtype=torch.float64) + 0.1
    expected = softmax(given + weight.log().unsqueeze(1), SEGMENT, 5)
    torch.testing.assert_close(softmax(given, SEGMENT, 5, weight), expected, rtol=1e-14, atol=1e-15)


def test_rows_of_weight_zero_are_as_absent_and_segments_without_weight_give_zero():
    given, weight = logits(), torch.tensor([1.0, 1, 1, 0, 0, 1, 1], dtype=torch.float64)
    with torch.no_grad():
        given[4] = 800.0
    got = softmax(given, SEGMENT, 5, weight)
    assert not got[3:5].any()
    torch.testing.assert_close(got[SEGMENT == 0][[0, 2]], given[[1, 6]].softmax(0), rtol=1e-14, atol=1e-15)


def test_first_and_second_derivatives_are_right():
    weight = (torch.rand(7, dtype=torch.float64) + 0.1).requires_grad_()
    given = logits()
    assert torch.autograd.gradcheck(lambda a, w: softmax(a, SEGMENT, 5, w), (given, weight))
    assert torch.autograd.gradgradcheck(lambda a, w: softmax(a, SEGMENT, 5, w), (given, weight))


@pytest.mark.parametrize("weight", [None, [1.0, 1, 1, 0, 0, 1, 1]])
def test_extreme_logits_give_finite_values_and_gradients(weight):
    given = torch.tensor([1e4, -1e4, 1e4, 3e4, 5e4, 0.0, -3e4], dtype=torch.float64).unsqueeze(1).requires_grad_()
    got = softmax(given, SEGMENT, 5, None if weight is None else torch.tensor(weight, dtype=torch.float64))
    assert got.isfinite().all() and 0 < got.sum() <= 3 + 1e-12
    assert torch.autograd.grad((got * torch.randn_like(got)).sum(), given)[0].isfinite().all()


def test_nothing_gives_nothing():
    assert softmax(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), 4).shape == (0, 3)


def test_tensors_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match="segments"):
        softmax(torch.zeros(7, 1), SEGMENT[:3], 5)
    with pytest.raises(ShapeError, match="segments"):
        softmax(torch.zeros(7), SEGMENT, 5)
    with pytest.raises(ShapeError, match="weight"):
        softmax(torch.zeros(7, 1), SEGMENT, 5, torch.ones(7, 1))
