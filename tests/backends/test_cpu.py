"""The CPU backend called through the bare op: what it cannot read it refuses, before native code sees it."""

from __future__ import annotations

import pytest
import torch

from equikern.errors import ShapeError
from equikern.program import CONVOLUTION, product

N, E = 4, 9
PROGRAM = product("5x0e", "0e", "5x0e", [(0, 0, 0, "uvu", True)], rows=CONVOLUTION)


def call(*index, rows=N, x=None):
    operands = [torch.randn(N, 5) if x is None else x, torch.randn(E, 1), torch.randn(E, 5), torch.empty(0)]
    return torch.ops.equikern.contract(PROGRAM.text, "cpu", operands, list(index), [rows], [3])[0]


def test_int32_indices_are_refused():
    sender, receiver = torch.randint(N, (2, E), dtype=torch.int32)
    with pytest.raises(ShapeError, match="int64"):
        call(sender, receiver)


def test_indices_of_different_length_are_refused():
    sender, receiver = torch.randint(N, (2, E))
    with pytest.raises(ShapeError, match="length"):
        call(sender, receiver[:-1])


@pytest.mark.parametrize("bad", [-1, N])
@pytest.mark.parametrize("row", [0, 1])
def test_an_index_out_of_range_is_refused(row, bad):
    index = torch.randint(N, (2, E))
    index[row, 2] = bad
    with pytest.raises(ShapeError, match="out of range"):
        call(*index)


def test_features_with_fewer_rows_than_the_senders_are_refused():
    with pytest.raises(ShapeError, match="out of range"):
        call(torch.full((E,), N - 1), torch.zeros(E, dtype=torch.int64), x=torch.randn(N - 1, 5))


def test_a_plan_that_is_none_is_refused():
    sender, receiver = torch.randint(N, (2, E))
    with pytest.raises(ShapeError, match="plan"):
        call(sender, receiver, torch.zeros(N + 1, dtype=torch.int64), torch.arange(E))
    ptr = torch.tensor([0, 0, 0, 0, E])
    with pytest.raises(ShapeError, match="plan"):
        call(sender, receiver, ptr, torch.arange(E) + 1)


def test_indices_with_strides_are_read_right():
    index = torch.randint(N, (2, E))
    strided = index.t().contiguous().t()
    operands = [torch.randn(N, 5), torch.randn(E, 1), torch.randn(E, 5), torch.empty(0)]
    op = torch.ops.equikern.contract
    expected = op(PROGRAM.text, "cpu", operands, list(index), [N], [3])[0]
    assert not strided[0].is_contiguous()
    assert torch.equal(op(PROGRAM.text, "cpu", operands, list(strided), [N], [3])[0], expected)
