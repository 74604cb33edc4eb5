"""On a CUDA device: the rows of docs/numerics.md, by whatever backend is chosen there."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
_spec = importlib.util.spec_from_file_location("numerics", Path(__file__).parents[1] / "test_numerics.py")
numerics = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(numerics)
OURS = [name for name in numerics.OUR_ROWS if numerics.ROWS[name].kind is numerics.OURS]


def run(name, dtype=torch.float32, **options):
    return numerics.run(name, dtype, device="cuda", **options)


@pytest.mark.parametrize("name", numerics.OUR_ROWS)
def test_an_op_keeps_to_its_row(name):
    expected, again = run(name), run(name)
    assert numerics.same(expected[0], again[0]) and numerics.same(expected[1], again[1])
    got = run(name, autocast=torch.bfloat16)
    assert numerics.same(got[0], expected[0]) and {g.dtype for g in got[1]} == {torch.float32}
    results, gradients = run(name, torch.bfloat16, autocast=torch.bfloat16)
    assert {z.dtype for z in results} == {torch.float32} and {g.dtype for g in gradients} == {torch.bfloat16}
    rounded = run(name, torch.bfloat16)[0]
    for a, b in zip(rounded, run(name, like=torch.bfloat16)[0], strict=True):
        assert a.dtype == torch.bfloat16
        # Where a kernel of another dtype sums in another order, rounding may go to the next number.
        assert (a.float() - b).abs().max() <= torch.finfo(torch.bfloat16).eps * b.abs().max()


@pytest.mark.parametrize("name", OURS)
def test_tf32_changes_nothing(name):
    expected = run(name)
    torch.set_float32_matmul_precision("high")
    try:
        got = run(name)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert numerics.same(got[0], expected[0]) and numerics.same(got[1], expected[1])
