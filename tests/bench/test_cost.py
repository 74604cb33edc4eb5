"""The cost model: its counts by hand, what it must obey, and its page in the docs."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"
EDGES, NODES = 6000, 200


@pytest.fixture(scope="module")
def cost():
    pytest.importorskip("e3nn", reason="the rival is e3nn")
    pytest.importorskip("triton", reason="the kernels are Triton's")
    before = list(sys.path)
    sys.path.insert(0, str(BENCH))
    spec = importlib.util.spec_from_file_location("cost", BENCH / "cost.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = before


def test_the_forward_sweep_of_schnet_is_counted_as_by_hand(cost):
    (launch,) = cost.sweeps("schnet", EDGES)["forward"]
    row = 128 * 4
    weights, ones, senders, order, ptr, z = row * EDGES, 4 * EDGES, 8 * EDGES, 8 * EDGES, 8 * (NODES + 1), row * NODES
    assert launch.stream == weights + ones + senders + order + ptr + z
    assert launch.gathered == ((row * NODES, row * EDGES),)
    assert launch.flops == 2 * 128 * 2 * EDGES  # w x and y (w x)


def test_gradients_of_x_by_edge_are_written_and_read_again(cost):
    _, total, last = cost.sweeps("mace", EDGES)["backward"]
    assert (total.name, last.name) == ("sum", "sum of x")  # that of y comes in parts
    assert last.stream == 4 * 512 * (EDGES + NODES) + 8 * (NODES + 1) + 8 * EDGES


def test_rows_that_do_not_fit_the_cache_come_again(cost):
    launch = cost.Launch("", 0, ((100, 1000),))
    assert [launch.bytes(cache) for cache in (200, 100, 50)] == [100, 100, 100 + 900 / 2]
    assert cost.Launch("", 0, ((1000, 10),)).bytes(50) == 10


def test_e3nns_ops_are_counted_each_once(cost):
    torch = cost.torch
    a = torch.empty(5, 7, device="meta")
    index = torch.empty(3, dtype=torch.int64, device="meta")
    with cost.Counter() as counter:
        (a @ a.T).relu().view(25)
        a.expand(4, 5, 7) + 1
        a[index]
        torch.zeros(2, device="meta")
    names = [(launch.name, launch.stream, launch.gathered, launch.flops) for launch in counter.launches]
    assert names == [
        ("mm", 4 * (35 + 35 + 25), (), 2 * 7 * 25),
        ("relu", 4 * 50, (), 25),
        ("add", 4 * (35 + 140), (), 140),
        ("index", 3 * 8 + 4 * 21, ((4 * 35, 4 * 21),), 0),
        ("zeros", 8, (), 2),
    ]


def test_more_edges_take_longer_and_a_better_device_less(cost):
    for name in cost.gpu.CASES:
        few, many = (cost.sweeps(name, edges) for edges in (10_000, 20_000))
        for kernel in few:
            times = [cost.seconds(few[kernel], device) for device in cost.DEVICES.values()]
            assert times == sorted(times, reverse=True) and times[-1] > 0
            assert cost.seconds(many[kernel], cost.DEVICES["H200"]) > times[-1]


def test_no_sweep_is_faster_than_predicted(cost):
    for device, results in cost.measurements().items():
        rows = [row for row in results["kernels"] if row["edges"] == 1_000_000 and "median" in row]
        assert rows
        for row in rows:
            predicted = cost.seconds(cost.sweeps(row["case"], 1_000_000)[row["kernel"]], cost.DEVICES[device])
            assert row["median"] >= 0.8 * predicted, (device, row["case"], row["kernel"])


def test_the_docs_hold_what_the_model_says(cost):
    said = "run `python bench/cost.py --write`: the kernels, or bench/gpu.json, have changed"
    page, version = cost.DOCS.read_text(), ".".join(cost.torch.__version__.split(".")[:2])
    if f"torch {version}," not in page:
        pytest.skip(f"the page counts ops of another torch than {version}")
    assert page == cost.renewed(page), said
