"""Every instruction set this machine can run gives the reference's results; the choice is made once for a process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_C = pytest.importorskip("equikern._C", reason="the extension is not built")

CHECK = """
import torch
from equikern.backends import cpu
from equikern.testing import assert_close, derivatives, get, inputs, reference, tolerance
torch.use_deterministic_algorithms(True)
torch.utils.deterministic.fill_uninitialized_memory = True
assert cpu.target() == {target!r}, cpu.target()
for id in ("mul-1", "mul-33", "mul-33-l3", "l6", "ir-mul", "mixed-weights", "shared-mixed", "rows-edge", "schnet-64"):
    case = get(id)
    for dtype in (torch.float32, torch.float64):
        for order in (0, 1, 2):
            got = derivatives(case.program, inputs(case, dtype), "cpu", order)
            limit = tolerance(case.program, dtype, order, case.longest_sum)
            assert_close(got, reference(case, dtype, order), limit, f"{{id}} {{dtype}}")
"""


def run(code, target):
    environment = os.environ | {"EQUIKERN_CPU_TARGET": target}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("target", _C.cpu_targets())
def test_every_instruction_set_gives_the_results_of_the_reference(target):
    done = run(CHECK.format(target=target), target)
    assert done.returncode == 0, done.stderr[-2000:]


def test_an_unknown_instruction_set_is_refused_by_name():
    done = run("from equikern.backends import cpu; cpu.target()", "sse1")
    assert done.returncode != 0 and "sse1" in done.stderr and "base" in done.stderr
