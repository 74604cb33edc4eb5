"""`import equikern` is inert: it loads what it needs to exist and touches nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("triton", "e3nn", "matplotlib", "ase", "sevenn", "mace", "nequip", "tqdm", "scipy", "torch._inductor")

PROBE = """
import os, subprocess, sys
import torch
before = set(sys.modules)
threads, dtype = torch.get_num_threads(), torch.get_default_dtype()

def refuse(event, args):
    if event in ("subprocess.Popen", "os.system", "os.posix_spawn", "os.exec", "os.fork", "socket.connect"):
        raise SystemExit(f"import equikern raised the audit event {event}: {args}")

sys.addaudithook(refuse)
"""

# In float32 1e-40 is subnormal; a library linked with -ffast-math makes it zero for the whole process.
SUBNORMALS_LIVE = "bool((torch.full((64,), 1e-40) * torch.ones(64) != 0).all())"


def run(script: str) -> str:
    """The output of a script in a fresh interpreter; the test fails with its errors if it does not end well."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("EQUIKERN_")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROBE + script], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_loads_no_optional_library() -> None:
    script = f"import equikern\nprint(*[m for m in {HEAVY!r} if m in sys.modules and m not in before])"
    assert run(script) == ""


def test_import_starts_no_process() -> None:
    assert run("import equikern\nprint('alive')") == "alive"


def test_the_probe_notices_a_process() -> None:
    with pytest.raises(AssertionError, match=r"audit event"):
        run("subprocess.run(['true'])")


def test_import_keeps_subnormals_alive() -> None:
    script = f"import equikern\nprint({SUBNORMALS_LIVE})"
    assert run(script) == "True"


def test_the_extension_keeps_subnormals_alive() -> None:
    script = (
        "import equikern._C as C\nC.cpu_target()\nprint(bool((torch.full((64,), 1e-40) * torch.ones(64) != 0).all()))"
    )
    assert run(script) == "True"


def test_import_leaves_threads_and_default_dtype_alone() -> None:
    script = "import equikern\nprint(torch.get_num_threads() == threads, torch.get_default_dtype() == dtype)"
    assert run(script) == "True True"


def test_import_makes_no_cuda_call() -> None:
    assert run("import equikern\nprint(torch.cuda.is_initialized())") == "False"


def test_the_package_is_typed() -> None:
    import equikern

    assert (Path(equikern.__file__).parent / "py.typed").is_file()
