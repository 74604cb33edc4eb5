"""The GPU bench, rehearsed on the CPU: it runs, checks its cases and prints tables."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


def run(*options: str, script: str = "gpu.py") -> str:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "bench"), str(ROOT)])}
    done = subprocess.run(
        [sys.executable, str(ROOT / "bench" / script), *options],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_dry_run_checks_times_and_prints_every_step(tmp_path):
    pytest.importorskip("e3nn", reason="the rival is e3nn")
    out = tmp_path / "gpu.json"
    printed = run("--dry", "--cases", "schnet", "--out", str(out))
    results = json.loads(out.read_text())
    assert [row["kernel"] for row in results["kernels"]] == ["forward", "backward", "double backward"]
    assert {row["case"] for row in results["steps"]} == {"schnet", "harmonics"}
    assert results["errors"]["schnet"] < 1e-5 and "| schnet | 300 | force training |" in printed


def test_a_dry_run_of_radial_networks_checks_and_prints_every_step(tmp_path):
    pytest.importorskip("e3nn", reason="the rival is e3nn")
    out = tmp_path / "gpu_radial.json"
    printed = run("--dry", "--cases", "nequip", "--out", str(out), script="gpu_radial.py")
    results = json.loads(out.read_text())
    assert [row["step"] for row in results["rows"]] == ["forward", "forces", "inner layer"]
    assert max(results["errors"]["nequip"].values()) < 2e-5 and "| nequip-conv | 600 | forces |" in printed


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("stage", ["conformance", "bench", "first", "second"])
def test_without_a_device_a_stage_ends_and_says_so(stage, tmp_path):
    environment = os.environ | {"OUT": str(tmp_path), "PYTHON": sys.executable}
    done = subprocess.run([ROOT / "bench" / "gpu.sh", stage], capture_output=True, text=True, env=environment)
    assert done.returncode == 1 and "finds no CUDA device" in done.stdout + done.stderr


def test_the_docs_hold_the_tables_of_the_committed_results():
    assert run("--table", str(ROOT / "bench" / "gpu.json")) in (ROOT / "docs" / "gpu.md").read_text()
