"""The GPU bench of linear maps and mixing products, rehearsed on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_a_dry_run_checks_times_and_prints_every_step(tmp_path):
    pytest.importorskip("e3nn", reason="the rival is e3nn")
    out = tmp_path / "modes.json"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "bench"), str(ROOT)])}
    command = [sys.executable, str(ROOT / "bench" / "gpu_modes.py"), "--dry", "--cases", "linear", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    steps = json.loads(out.read_text())["steps"]
    assert [row["step"] for row in steps] == ["forward", "forward+backward", "force training"]
    assert all(row["error"] < 2e-5 and "median" in row["ours"] for row in steps)
    assert "| linear | 300 | force training |" in done.stdout
