"""`import equikern`, with its layers, is inert: it loads what it needs to exist and touches nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HEAVY = {"triton", "e3nn", "matplotlib", "ase", "sevenn", "mace", "nequip", "tqdm", "scipy"}
HEAVY |= {"torch._inductor", "torch._dynamo"}

PREPARE = """
import json, subprocess, sys
import torch
before, threads, dtype = set(sys.modules), torch.get_num_threads(), torch.get_default_dtype()
events = []

def watch(event, args):
    if event in ("subprocess.Popen", "os.system", "os.posix_spawn", "os.exec", "os.fork", "socket.connect"):
        events.append(event)

sys.addaudithook(watch)
"""

# In float32 1e-40 is subnormal; a library linked with -ffast-math makes it zero for the whole process.
REPORT = """
print(json.dumps({
    "loaded": sorted(set(sys.modules) - before),
    "events": events,
    "subnormals live": bool((torch.full((64,), 1e-40, dtype=torch.float32) * 1.0 != 0).all()),
    "settings kept": torch.get_num_threads() == threads and torch.get_default_dtype() == dtype,
    "cuda started": torch.cuda.is_initialized(),
}))
"""


def report(statement: str) -> dict[str, Any]:
    """What a statement did to a fresh interpreter that had imported torch."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("EQUIKERN_")}
    command = [sys.executable, "-W", "error", "-c", PREPARE + statement + REPORT]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def imported() -> dict[str, Any]:
    return report("import equikern, equikern.nn, equikern.o3")


def test_import_loads_no_optional_library(imported: dict[str, Any]) -> None:
    assert HEAVY.isdisjoint(imported["loaded"])


def test_import_starts_no_process(imported: dict[str, Any]) -> None:
    assert imported["events"] == []


def test_import_keeps_subnormals_alive(imported: dict[str, Any]) -> None:
    assert imported["subnormals live"]


def test_import_leaves_threads_and_default_dtype_alone(imported: dict[str, Any]) -> None:
    assert imported["settings kept"]


def test_import_makes_no_cuda_call(imported: dict[str, Any]) -> None:
    assert not imported["cuda started"]


def test_the_extension_keeps_subnormals_alive() -> None:
    assert report("import equikern._C\nequikern._C.cpu_target()")["subnormals live"]


def test_the_probe_notices_what_it_watches_for() -> None:
    seen = report("import wave\nsubprocess.run([sys.executable, '-V'], capture_output=True)")
    assert "wave" in seen["loaded"] and "subprocess.Popen" in seen["events"]


def test_the_probe_notices_flushed_subnormals() -> None:
    seen = report("torch.set_flush_denormal(True)\ntorch.set_num_threads(threads + 1)")
    assert not seen["subnormals live"] and not seen["settings kept"]


def test_the_package_is_typed() -> None:
    import equikern

    assert (Path(equikern.__file__).parent / "py.typed").is_file()
