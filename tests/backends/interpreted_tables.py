"""Weights from rows of a table, in Triton under its interpreter: run by test_triton.py with TRITON_INTERPRET=1."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from equikern import backends
from equikern.backends.gpu import table
from equikern.backends.triton.table import sum_knots
from equikern.errors import ShapeError
from equikern.ops import evaluate
from equikern.program import tabled
from equikern.testing import get, inputs

_spec = importlib.util.spec_from_file_location("tables", Path(__file__).with_name("tables.py"))
tables = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tables)


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("id", ["table-mul-5", "table-mixed", "table-edges", "table-no-edges"])
def test_orders_are_those_of_the_reference(id, order):
    tables.check_orders("triton", get(id), torch.float64, order)


@pytest.mark.parametrize(("dtype", "order"), [(torch.float32, 1), (torch.bfloat16, 0)], ids=["f32", "bf16"])
def test_factors_are_summed_over_more_channels_than_a_warp_has(dtype, order):
    tables.check_orders("triton", get("table-mul-33"), dtype, order)


@pytest.mark.parametrize("along", [[[0, 1, 2, 3]], [[0, 1, 2, 3], [1, 2]]], ids=["second", "third"])
def test_slots_of_derivatives_are_opened_together(along):
    tables.check_slots("triton", along)


def test_the_gradient_of_a_large_table_is_summed_in_parts_and_lost_knots_are_left_out(monkeypatch):
    monkeypatch.setattr(table, "MOST_SUMS", 1)
    tables.check_sum_of_rows(sum_knots)


@pytest.mark.parametrize("order", [0, 1, 2, 9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
def test_splines_and_their_derivatives_are_those_of_the_reference(order, dtype):
    tables.check_spline("triton", order, dtype)


@pytest.mark.parametrize("first", [-1, 5, 10**12])
def test_a_knot_whose_rows_are_not_in_the_table_gives_nan_and_no_fault(first):
    tables.check_lost_knot("triton", "table-edges", first)


def test_a_convolution_with_a_table_trains_like_one_with_its_module():
    tables.check_training("triton")


def test_a_table_without_enough_rows_is_refused():
    case = get("table-mul-5")
    x, y, w, b = inputs(case).operands
    with pytest.raises(ShapeError, match=r"reads \(5, "), backends.backend("triton"):
        evaluate(case.program, (x, y, w[:4], b), inputs(case).index, case.nodes)


def test_a_table_that_no_path_reads_has_no_kernel():
    program = tabled(get("unweighted").program, (0, 2))
    assert backends.triton.supports(program, "cpu", torch.float32) == "no path reads the table"
