"""Large results on the CPU: memory that nobody holds any more is used again, and only that."""

from __future__ import annotations

import gc
import sys

import pytest
import torch

import equikern
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


def resident(address):
    """Bytes of pages there are in the mapping of an address."""
    with open("/proc/self/smaps") as lines:
        inside = False
        for line in lines:
            head = line.split()
            if "-" in head[0]:
                begin, end = (int(a, 16) for a in head[0].split("-"))
                inside = begin <= address < end
            elif inside and head[0] == "Rss:":
                return int(head[1]) << 10
    raise LookupError(hex(address))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_new_result_does_not_take_small_pages_that_others_left():
    left = 28 << 18  # float32 of 28 MB: the C library keeps such memory once it has mapped one
    for _ in range(2):
        held = [torch.ones(left) for _ in range(2)]
        del held
    z = result()
    assert resident(z.data_ptr()) == 0
    z.fill_(1.0)
    assert resident(z.data_ptr()) >= LARGE


def lazily_free():
    """Bytes that the system may take from this process when it needs them."""
    with open("/proc/self/smaps_rollup") as lines:
        return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("LazyFree:"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_beyond_256_megabytes_memory_that_is_left_is_the_systems_to_take():
    before, rows = lazily_free(), 16 * ROWS
    held = [result(rows).fill_(1.0) for _ in range(6)]  # of 64 MB
    for _ in range(4):
        held.pop()
    assert lazily_free() == before
    held.clear()
    assert lazily_free() - before >= (64 << 20) - (4 << 20)


def test_scratch_is_used_again():
    conv = equikern.nn.Convolution("64x0e + 64x1o", "0e + 1o", "64x0e + 64x1o", [(0, 0, 0, "uvu", True)])
    nodes = 2048  # rows of x inside the kernel: 2 MB
    x, y = torch.randn(nodes, 256), torch.randn(nodes, 4)
    weight, edges = torch.randn(nodes, 64), torch.arange(nodes).repeat(2, 1)
    conv(x, y, weight, edges)
    assert _C.release_kept() >= x.numel() * 4
