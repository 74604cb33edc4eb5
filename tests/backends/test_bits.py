"""`same`: the values of tensors, compared bit for bit."""

import pytest
import torch

from equikern.backends.bits import same


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool])
def test_one_other_number_is_seen(dtype):
    a = torch.ones(37, 5, dtype=dtype)
    assert same(a, a.clone())
    for place in (0, 1, 92, 183, 184):
        b = a.clone()
        b.view(-1)[place] = 0
        assert not same(a, b)


def test_dtype_and_shape_count():
    a = torch.zeros(2, 3)
    assert not same(a, a.double())
    assert not same(a, a.t())
    assert not same(a, torch.zeros(2, 4))
    assert same(torch.zeros(0, 3), torch.zeros(0, 3))


def test_numbers_apart_in_memory_are_compared_too():
    a = torch.arange(12.0).view(3, 4).t()
    assert same(a, a.contiguous())
    assert not same(a, torch.zeros(4, 3))


def test_not_a_number_is_itself():
    a = torch.tensor([1.0, float("nan")])
    assert same(a, a.clone())
