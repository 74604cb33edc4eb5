"""The budget of bench/RESOURCES.md: real layers compile for devices, spill nothing and take no more registers."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from equikern.program import painn_message
from equikern.testing import get


def load(name: str, file: Path):
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


resources = load("bench_resources", Path(__file__).resolve().parents[2] / "bench" / "resources.py")
host_cuda = load("host_cuda", Path(__file__).with_name("host_cuda.py"))
BUDGET = resources.budget()
SLACK = 8  # registers between versions of a compiler
PROGRAMS = {id: get(id).program for id in ("mace-conv", "nequip-conv", "sevennet-conv")}
PROGRAMS["painn message, 128"] = painn_message(128)
PROGRAMS |= resources.elementwise() | resources.tables()
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None or os.environ.get("TRITON_INTERPRET") == "1",
    reason="triton is not installed, or interprets",
)
needs_cuda_compiler = pytest.mark.skipif(resources.cuda.compiler() is None, reason="neither nvcc nor NVRTC is found")
BACKENDS = [pytest.param("triton", marks=needs_triton), pytest.param("cuda", marks=needs_cuda_compiler)]


@pytest.fixture(autouse=True)
def kept_by_content(monkeypatch):
    """A source is compiled once for all tests; Triton keeps its kernels itself."""
    monkeypatch.setattr(resources, "cuda", SimpleNamespace(resources=host_cuda.resources_of))


@pytest.mark.parametrize("arch", resources.ARCHS)
@pytest.mark.parametrize("case", PROGRAMS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_kernels_spill_nothing_and_keep_to_their_registers(backend, case, arch):
    for name, take in resources.of_program(backend, PROGRAMS[case].text).items():
        if "table" in case and name == "double backward" and backend == "triton":
            continue  # ten seconds for each architecture; bench/resources.py compiles it
        registers, spilled, *_ = take(arch)
        allowed, _, _ = BUDGET[backend, case, name, "float32", arch]
        assert spilled == 0 and registers <= allowed + SLACK, f"{name}: {registers} registers, {spilled} bytes spilled"


@pytest.mark.parametrize("backend", ["triton", "cuda"])
def test_no_kernel_spills(backend):
    rows = {key: found for key, found in BUDGET.items() if key[0] == backend}
    assert len(rows) > 60 and not {key: found for key, found in rows.items() if found[1]}


def test_first_use_is_measured_for_both():
    text = resources.sections()["first use"]
    rows = {f"| {case} | {resources.TITLES[b]} |" for case in resources.convolutions() for b in resources.BACKENDS}
    assert all(row in text for row in rows)
