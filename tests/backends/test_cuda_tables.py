"""Weights from rows of a table in CUDA C++ without a GPU: numbers from the same sources on the host."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from equikern.backends.cuda import spline
from equikern.backends.cuda.launch import maker, reals, sum_knots
from equikern.backends.cuda.sums import rows_source
from equikern.backends.gpu import launch, table
from equikern.program import tabled
from equikern.testing import get


def load(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


host_cuda, tables = load("host_cuda"), load("tables")
on_host, needs_compiler = host_cuda.on_host, host_cuda.needs_compiler
needs_cuda_compiler = host_cuda.needs_cuda_compiler


@needs_compiler
@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("id", ["table-mul-5", "table-mul-33", "table-mixed", "table-edges", "table-no-edges"])
def test_orders_are_those_of_the_reference(on_host, id, order):
    tables.check_orders("cuda", get(id), torch.float64, order)


@needs_compiler
def test_rows_of_more_edges_than_a_warp_has_lanes_are_walked(on_host):
    tables.check_orders("cuda", get("table-mul-5").sized(edges=140, degree=70), torch.float64, 1)


@needs_compiler
@pytest.mark.parametrize("order", [0, 1, 2])
def test_a_lane_may_have_two_channels(on_host, order):
    message = get("painn-128")
    case = replace(message, program=tabled(message.program, (0, 2, 3)), nodes=2, degree=5)
    sweeps = launch.steps(maker(torch.float32), case.program.text).values()
    assert all(lanes == 2 for sweep in sweeps for lanes in sweep.layout.lanes)
    tables.check_orders("cuda", case, torch.float32, order)


@needs_compiler
@pytest.mark.parametrize(
    ("dtype", "order"), [(torch.float32, 2), (torch.float16, 0), (torch.bfloat16, 0)], ids=["f32", "f16", "bf16"]
)
def test_other_precisions_are_those_of_the_reference(on_host, dtype, order):
    tables.check_orders("cuda", get("table-mul-33"), dtype, order)


@needs_compiler
@pytest.mark.parametrize("along", [[[0, 1, 2, 3]], [[0, 1, 2, 3], [1, 2]]], ids=["second", "third"])
def test_slots_of_derivatives_are_opened_together(on_host, along):
    tables.check_slots("cuda", along)


@needs_compiler
def test_the_gradient_of_a_large_table_is_summed_in_parts_and_lost_knots_are_left_out(on_host, monkeypatch):
    monkeypatch.setattr(table, "MOST_SUMS", 1)
    tables.check_sum_of_rows(sum_knots)


@needs_compiler
@pytest.mark.parametrize("order", [0, 1, 2, 9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
def test_splines_and_their_derivatives_are_those_of_the_reference(on_host, order, dtype):
    tables.check_spline("cuda", order, dtype)


@needs_compiler
@pytest.mark.parametrize("first", [-1, 5, 10**12])
def test_a_knot_whose_rows_are_not_in_the_table_gives_nan_and_no_fault(on_host, first):
    tables.check_lost_knot("cuda", "table-edges", first)


@needs_compiler
def test_a_convolution_with_a_table_trains_like_one_with_its_module(on_host):
    tables.check_training("cuda")


@needs_cuda_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
def test_splines_and_the_sum_of_rows_compile_for_the_device_and_spill_nothing(dtype):
    sources = [spline.source(3, order, reals(dtype).row) for order in (0, 2)] + [rows_source(8, reals(dtype))]
    assert all(host_cuda.resources_of(source, 90).spilled == 0 for source in sources)
