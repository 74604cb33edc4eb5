"""Element-wise and full products in CUDA C++ without a GPU; `test_cuda.py` has the small ones in every order."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

import equikern
from equikern import o3
from equikern.backends import cpu, cuda, parts
from equikern.backends.cuda.launch import maker
from equikern.backends.gpu import launch
from equikern.backends.gpu.exchanged import exchanged
from equikern.program import CONVOLUTION, product
from equikern.testing import assert_close, derivatives, get, inputs, reference, tolerance
from equikern.testing.cases import uvu_paths

_spec = importlib.util.spec_from_file_location("host_cuda", Path(__file__).with_name("host_cuda.py"))
host_cuda = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(host_cuda)
on_host, needs_compiler = host_cuda.on_host, host_cuda.needs_compiler
needs_cuda_compiler = host_cuda.needs_cuda_compiler


@needs_compiler
@pytest.mark.parametrize("id", ["elementwise-128", "allegro-64"])
def test_several_channels_a_lane_may_each_have_their_own_of_y(on_host, id):
    for order in (0, 1, 2):
        case = get(id)
        got = derivatives(case.program, inputs(case, torch.float32), "cuda", order)
        allowed = tolerance(case.program, torch.float32, order, case.longest_sum)
        assert_close(got, reference(case, torch.float32, order), allowed, id)


@needs_compiler
@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("id", ["modes-33", "modes-mixed-rows", "y-33"])
def test_paths_of_several_kinds_are_swept_where_they_have_a_kernel(on_host, monkeypatch, id, order):
    case = get(id)
    monkeypatch.setattr(cpu, "supports", lambda *_: "none")
    swept = [part.program for part in parts.parts(case.program.text) if part.swept]
    assert swept and all(cuda.supports(program, "cpu", torch.float64) is None for program in swept)
    got = derivatives(case.program, inputs(case), "matmul", order)
    allowed = tolerance(case.program, torch.float64, order, case.longest_sum)
    assert_close(got, reference(case, torch.float64, order), allowed, id)


def test_the_double_backward_is_one_sweep_also_where_x_and_y_change_places():
    program = get("uuu-receivers-z").program.along([0, 1, 2])
    assert exchanged(program.text).program.derived == program.derived


@pytest.mark.parametrize(
    "module",
    [
        o3.ElementwiseTensorProduct("8x1o+4x0e", "12x1o"),
        o3.ElementwiseTensorProduct("8x1o+4x2e", "12x0e"),
        o3.FullTensorProduct("0e+1o", "8x0e+8x1o"),
        o3.FullTensorProduct("8x0e+8x1o", "0e+1o"),
        o3.FullTensorProduct("4x0e+4x1o", "3x0e+2x1o"),
        o3.TensorProduct("4x0e+4x1o", "3x0e+2x1o", "4x1o", [(0, 1, 0, "uvu", True), (1, 0, 0, "uvu", True)]),
    ],
    ids=str,
)
def test_products_of_e3nn_run_on_the_device(monkeypatch, module):
    monkeypatch.setattr(cuda, "unavailable", lambda device, dtype: None)
    assert "cuda        runs it" in str(equikern.explain(module, device="cuda"))


@needs_cuda_compiler
@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("kind", ["full", "several of y"])
def test_products_of_many_paths_spill_nothing(kind, arch):
    """Those of equal channels are in `bench/RESOURCES.md`."""
    wide = "64x0e+64x1o+64x2e"
    if kind == "full":
        program = exchanged(o3.FullTensorProduct("0e+1o+2e", wide).program.text).program
    else:
        program = product(*uvu_paths(wide, "4x0e+4x1o", 2), rows=CONVOLUTION)
    for label, made in launch.steps(maker(torch.float32), program.text).items():
        assert host_cuda.resources_of(made.source, arch).spilled == 0, label
