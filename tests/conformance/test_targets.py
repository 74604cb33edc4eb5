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


HARMONICS = """
import torch
from equikern.backends import cpu, cpu_harmonics, reference_harmonics
torch.use_deterministic_algorithms(True)
torch.utils.deterministic.fill_uninitialized_memory = True
assert cpu.target() == {target!r}, cpu.target()
for degrees in ("0", "0,1", "0,1,2", "0,1,2,3", "0,1,2,3,4", "0,1,2,3,4,5", "0,1,2,3,4,5,6", "1,3", "0,1,2,3,4,5,6,7"):
    for edges in (3, 53):
        for dtype, limit in ((torch.float32, 2e-6), (torch.float64, 1e-14)):
            spec = f"sh {{degrees}} component normalize"
            vec, h = torch.randn(2, edges, 3, dtype=dtype)
            z = torch.randn(edges, sum(2 * int(l) + 1 for l in degrees.split(",")), dtype=dtype)
            wide = [t.double() for t in (vec, z, h)]
            for module in (cpu_harmonics, reference_harmonics):
                v, c, d = (vec, z, h) if module is cpu_harmonics else wide
                found = [module.harmonics(spec, v), module.harmonics_backward(spec, v, c)]
                found += module.harmonics_double_backward(spec, v, c, d)
                if module is cpu_harmonics:
                    got = found
            for a, b in zip(got, found, strict=True):
                assert not (a.double() - b).norm() > limit * b.norm() and not a.isnan().any(), (spec, edges, dtype)
"""


@pytest.mark.parametrize("target", _C.cpu_targets())
def test_harmonics_of_every_instruction_set_are_those_of_the_reference(target):
    done = run(HARMONICS.format(target=target), target)
    assert done.returncode == 0, done.stderr[-2000:]


SYMMETRIC_CONTRACTIONS = """
import torch
from equikern.backends import cpu
from equikern.testing import SYMMETRIC, assert_close, symmetric_derivatives, tolerance
torch.use_deterministic_algorithms(True)
torch.utils.deterministic.fill_uninitialized_memory = True
assert cpu.target() == {target!r}, cpu.target()
for id in ("mace-last", "ir-mul", "to-channels", "one-node", "many-nodes"):
    for dtype in (torch.float32, torch.float64):
        got = symmetric_derivatives(id, dtype, "cpu", 2, dtype)
        expected = symmetric_derivatives(id, torch.float64, "reference", 2, dtype)
        assert_close(got, expected, tolerance(SYMMETRIC[id][0], dtype, 2, 150), f"{{id}} {{dtype}}")
"""


@pytest.mark.parametrize("target", _C.cpu_targets())
def test_symmetric_contractions_of_every_instruction_set_are_those_of_the_reference(target):
    done = run(SYMMETRIC_CONTRACTIONS.format(target=target), target)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("target", _C.cpu_targets())
def test_every_instruction_set_gives_the_results_of_the_reference(target):
    done = run(CHECK.format(target=target), target)
    assert done.returncode == 0, done.stderr[-2000:]


def test_an_unknown_instruction_set_is_refused_by_name():
    done = run("from equikern.backends import cpu; cpu.target()", "sse1")
    assert done.returncode != 0 and "sse1" in done.stderr and "base" in done.stderr


PAINN = """
import torch
import equikern
from equikern.backends import cpu
from equikern.ops import painn
from equikern.testing.painn import CONFIGS, painn_inputs
torch.use_deterministic_algorithms(True)
torch.utils.deterministic.fill_uninitialized_memory = True
assert cpu.target() == {target!r}, cpu.target()
for id in ("odd", "wide", "trained-size"):
    config = CONFIGS[id]
    for atoms in (1, 40):
        for dtype, limit in ((torch.float32, 3e-4), (torch.float64, 1e-12)):
            vec, graph, weights = painn_inputs(config, atoms, dtype)
            found = []
            for backend, wide in (("cpu", dtype), ("reference", torch.float64)):
                with equikern.backend(backend):
                    leaves = [t.to(wide).requires_grad_() for t in (vec.detach(), *weights)]
                    leaves[-1].requires_grad_(config.basis == "bessel")
                    energy, g = painn(config, leaves[0], graph, leaves[1:])
                    total = (energy * energy.detach()).sum() + (g * g.detach()).sum()
                    trained = [t for t in leaves if t.requires_grad]
                    slopes = torch.autograd.grad(total, trained, allow_unused=True, materialize_grads=True)
                    found.append([energy, g, *slopes])
            for a, b in zip(*found, strict=True):
                error = (a.double() - b).norm() / max(b.norm(), 1e-3)
                assert error <= limit, (id, atoms, dtype)  # not for NaN either
"""


@pytest.mark.parametrize("target", _C.cpu_targets())
def test_painn_of_every_instruction_set_is_that_of_the_reference(target):
    done = run(PAINN.format(target=target), target)
    assert done.returncode == 0, done.stderr[-2000:]


GATE = """
import torch
from equikern.backends import cpu, cpu_gate, reference_gate
from equikern.backends._gate import ACTIVATIONS, Part, gate_spec
torch.use_deterministic_algorithms(True)
torch.utils.deterministic.fill_uninitialized_memory = True
assert cpu.target() == {target!r}, cpu.target()
parts, first = [], 0
for act in ACTIVATIONS:
    for mul, dim in ((1, 0), (5, 1), (33, 3), (17, 5), (9, 9)):
        parts.append(Part(first, mul, act, 1.3, first + mul if dim else 0, dim))
        first += mul * (dim + 1)
spec, width = gate_spec(first, tuple(parts)), sum(p.mul * (p.dim or 1) for p in parts)
for dtype in (torch.float32, torch.float64):
    x, z, h = (torch.randn(7, n, dtype=dtype) for n in (first, width, first))
    for name, given in (("gate", [x]), ("gate_backward", [x, z]), ("gate_double_backward", [x, z, h])):
        got = getattr(cpu_gate, name)(spec, *given)
        exact = getattr(reference_gate, name)(spec, *(a.double() for a in given))
        for a, b in zip(got, exact, strict=True) if isinstance(got, tuple) else [(got, exact)]:
            assert (a - b).abs().max() <= 4 * torch.finfo(dtype).eps * b.abs().max(), (name, dtype)
"""


@pytest.mark.parametrize("target", _C.cpu_targets())
def test_gates_of_every_instruction_set_are_those_of_the_reference(target):
    result = run(GATE.format(target=target), target)
    assert result.returncode == 0, result.stderr
