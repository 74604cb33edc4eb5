"""The GPU bench of symmetric contractions, rehearsed on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_a_dry_run_checks_the_rival_and_times_every_kernel_and_step(tmp_path):
    out = tmp_path / "gpu.json"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "bench"), str(ROOT)])}
    command = [
        sys.executable,
        str(ROOT / "bench" / "gpu_symmetric.py"),
        "--dry",
        "--outputs",
        "0e+1o",
        "--out",
        str(out),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    results = json.loads(out.read_text())
    assert len(results["kernels"]) == 5 and {"median"} < results["kernels"][0].keys()
    assert "| 4x0e+4x1o | 9 | force training |" in done.stdout
