"""The GPU bench against other libraries, rehearsed on the CPU."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from equikern.nn import Convolution

ROOT = Path(__file__).resolve().parents[2]


def test_columns_are_those_of_sorted_outputs_in_ir_mul(monkeypatch):
    pytest.importorskip("e3nn", reason="the cases are e3nn's irreps")
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    import baselines
    import peers

    ix, iy, iz, instructions = baselines.case("sevennet")
    ours = Convolution(ix, iy, iz, instructions)
    order = peers.by_irrep(ours.program)
    assert order != sorted(order)
    outs = [instructions[n][2] for n in order]
    paths = [(*instructions[n][:2], position, *instructions[n][3:]) for position, n in enumerate(order)]
    theirs = Convolution(ix, iy, [iz[n] for n in outs], paths, layout="ir_mul")
    edges = torch.randint(10, (2, 40))
    x, y, w = (torch.randn(n, operand.dim) for n, operand in zip((10, 40, 40), ours.program.operands[:3], strict=True))
    peer = peers.Peer(theirs, *peers.columns(ours.program, order))
    got = peer.in_our_columns(lambda x, y, w: theirs(x, y, w[:, peer.w], edges))(x, y, w)
    torch.testing.assert_close(got, ours(x, y, w, edges))


def test_a_dry_run_checks_times_and_says_what_is_missing(tmp_path):
    pytest.importorskip("e3nn", reason="the cases are e3nn's irreps")
    out = tmp_path / "peers.json"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "bench"), str(ROOT), *sys.path])}
    command = [sys.executable, str(ROOT / "bench" / "gpu_peers.py"), "--dry", "--cases", "nequip", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    rows = json.loads(out.read_text())["rows"]
    assert [row["step"] for row in rows] == ["forward", "forward+backward", "force training", "forward", "forces"]
    assert all("median" in row["equikern"] for row in rows)
    if importlib.util.find_spec("cuequivariance_torch"):
        assert all("median" in row["cuEquivariance"] for row in rows)
    else:
        assert all("No module named 'cuequivariance'" in row["cuEquivariance"]["skipped"] for row in rows)
    assert all("skipped" in row["OpenEquivariance"] for row in rows)  # it needs a CUDA device
    assert "| nequip-conv | 300 | force training |" in done.stdout
