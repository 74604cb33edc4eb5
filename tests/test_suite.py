"""The suite's own promises (conftest.py): unwritten memory shows, and every test starts from the same state."""

from __future__ import annotations

import pytest
import torch

EMPTY = {
    "empty": lambda dtype: torch.empty(50, dtype=dtype),
    "empty_like": lambda dtype: torch.empty_like(torch.zeros(50, dtype=dtype)),
    "new_empty": lambda dtype: torch.zeros(3).new_empty(50, dtype=dtype),
    "empty_strided": lambda dtype: torch.empty_strided((5, 10), (1, 5), dtype=dtype),
    "resize_": lambda dtype: torch.empty(0, dtype=dtype).resize_(50),
}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("make", EMPTY)
def test_memory_that_nobody_wrote_is_nan(make: str, dtype: torch.dtype) -> None:
    assert bool(EMPTY[make](dtype).isnan().all())


def test_index_memory_that_nobody_wrote_is_out_of_every_range() -> None:
    assert bool((torch.empty(50, dtype=torch.int64) == torch.iinfo(torch.int64).max).all())


@pytest.mark.parametrize("repeat", [0, 1])
def test_each_test_draws_the_same_numbers(repeat: int) -> None:
    assert torch.equal(torch.randn(3), torch.randn(3, generator=torch.Generator().manual_seed(0)))
