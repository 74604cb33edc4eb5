"""The Triton backend without a GPU: numbers under the interpreter, registers and spills from the compiler."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from equikern import backends
from equikern.backends.triton import emit, harmonics, kernels, spline
from equikern.backends.triton.launch import own_pass, steps
from equikern.errors import BackendError
from equikern.program import painn_message, schnet_message
from equikern.testing import get, inputs, run

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
PROGRAMS = {
    "mace": get("mace-conv").program,
    "nequip": get("nequip-conv").program,
    "painn": painn_message(128),
    "schnet": schnet_message(128),
}


@needs_triton
@pytest.mark.parametrize("name", ["triton", "tables"])
def test_interpreted_kernels_give_what_the_reference_gives(name):
    file = Path(__file__).with_name(f"interpreted_{name}.py")
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", "-qx", "-p", "no:cacheprovider", str(file)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]


@needs_triton
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter runs on the CPU")
def test_tensors_on_the_cpu_are_refused_by_name():
    case = get("mul-5")
    with pytest.raises(BackendError, match="operands are on cpu"):
        run(case.program, inputs(case), "triton")


@pytest.mark.skipif(importlib.util.find_spec("triton") is not None, reason="triton is installed")
def test_without_triton_the_reason_is_said():
    assert backends.triton.supports(get("mul-5").program, "cuda", torch.float32) == "triton is not installed"


@needs_triton
@pytest.mark.parametrize(
    ("id", "reason", "chosen"),
    [
        ("mode-uvw", "mix or pair channels", "matmul"),
        ("linear", "family", "matmul"),
        ("rows-shared-y", "rows of y", "matmul"),
    ],
)
def test_what_it_has_no_kernel_for_is_named(id, reason, chosen):
    assert reason in backends.triton.supports(get(id).program, "cuda", torch.float32)
    assert backends.select(get(id).program.text, "cuda", torch.float32) == chosen


@needs_triton
def test_without_nvrtc_cuda_tensors_go_to_triton():
    assert backends.select(PROGRAMS["mace"].text, "cuda", torch.bfloat16) == "triton"


def test_the_gradient_of_x_takes_the_way_that_moves_fewer_bytes():
    ways = {n: own_pass(p.text, (0, 1, 2), (0, 1, 2, 3), False, True) for n, p in PROGRAMS.items()}
    assert ways == {"mace": False, "nequip": False, "painn": True, "schnet": True}


@needs_triton
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="interpreted kernels are not specialised")
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_compiled_kernel_does_not_depend_on_how_many_rows_there_are(name):
    """`Kernel` starts it again for any counts: those must not be built in."""
    made = steps(PROGRAMS[name].text)
    sweeps = [made.sweep_kernel(torch.float32).jit for made in made.values()]
    for jit in (*sweeps, harmonics.kernel("sh 0,1,2 norm normalize", 0).jit):
        counts = [p for p in jit.params if p.name == "edges" or p.name.endswith("_rows")]
        assert all(p.do_not_specialize for p in counts) and (counts or jit in sweeps)


@needs_triton
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="interpreted kernels have no cache")
def test_kernels_read_no_globals():
    """Triton compares those with themselves at every start, and NaN is not NaN."""
    sweeps = [made.sweep_kernel(torch.float32).jit for made in steps(get("table-mul-5").program.text).values()]
    for jit in (*sweeps, spline._kernel(3, 0).jit, harmonics.kernel("sh 0,1,2 norm normalize", 0).jit):
        assert jit.cache_key and not jit.used_global_vals


def test_a_kernel_is_looked_up_again_where_a_kind_of_argument_changes(monkeypatch):
    asked, started = [], []

    class Jit:
        def __getitem__(self, grid):
            return lambda *arguments, **options: asked.append((grid, options)) or Ready(len(asked))

    class Ready:
        def __init__(self, number):
            self.number = number

        def __getitem__(self, grid):
            return lambda *arguments: started.append((self.number, grid))

    monkeypatch.setattr(kernels, "compiled", lambda source, name: Jit())
    kernel, a = kernels.Kernel("", "", num_warps=1), torch.zeros(9)
    kernel(5, [a, 7], "T")
    kernel(6, [a, 8], "T")
    kernel(5, [a[1:], 7], "T")
    kernel(5, [a[1:], 1 << 31], "T")
    kernel(5, [a.double(), 7], "T")
    kernel(7, [a[1:], 9], "T")
    assert [grid for grid, _ in asked] == [(5,), (5,), (5,), (5,)] and asked[0][1] == {"num_warps": 1}
    assert started == [(1, (6, 1, 1)), (2, (7, 1, 1))]


def test_the_source_says_what_it_is_made_of():
    source = emit.sweep_source(steps(PROGRAMS["schnet"].text)["forward"].sweep)
    assert source.startswith(f"# {PROGRAMS['schnet'].text}\n# opens z\n")
    assert "z0_0 += y0 * a0" in source
