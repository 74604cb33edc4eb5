"""Large results on the CPU: memory that nobody holds any more is used again, and only that."""

from __future__ import annotations

import gc

import pytest
import torch

from equikern import _C
from equikern.backends.results import LARGE, empty

ROWS = LARGE // 256  # of 64 float32: just large enough


@pytest.fixture(autouse=True)
def _kept_memory():
    torch.use_deterministic_algorithms(False)
    gc.collect()
    _C.release_kept()
    yield
    _C.release_kept()


def result(rows=ROWS):
    return empty(torch.zeros(1), rows, 64)


def test_a_result_takes_the_memory_that_another_left():
    place = result().data_ptr()
    assert result().data_ptr() == place


def test_results_that_are_held_do_not_share_memory():
    del_first = result()
    del del_first
    first, second = result().fill_(1.0), result().fill_(2.0)
    assert bool((first == 1).all()) and bool((second == 2).all())


def test_a_view_holds_the_memory_of_its_result():
    row = result().fill_(1.0)[3]
    result().fill_(2.0)
    assert bool((row == 1).all())


def test_memory_much_larger_than_a_result_is_left_for_others():
    place = result(4 * ROWS).data_ptr()
    assert result().data_ptr() != place


def test_a_result_is_a_plain_tensor():
    z = result()
    assert (z.shape, z.stride(), z._is_view(), z.data_ptr() % 64) == ((ROWS, 64), (64, 1), False, 0)


def test_released_memory_is_counted():
    result()
    assert (_C.release_kept() >= LARGE, _C.release_kept()) == (True, 0)


def test_with_deterministic_algorithms_unwritten_memory_is_filled():
    result().fill_(1.0)
    torch.use_deterministic_algorithms(True)
    assert bool(result().isnan().all())
