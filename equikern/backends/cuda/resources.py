"""Compiles kernels for a GPU that need not be there, and reads what they take: registers, spills, shared memory."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from equikern.backends.cuda import nvrtc
from equikern.errors import BackendError


class Resources(NamedTuple):
    """Of one kernel: registers a thread, bytes spilled a thread, bytes of memory that a block shares."""

    registers: int
    spilled: int
    shared: int


def compiler() -> str | None:
    """What compiles without a device: "nvcc" where it is on the path, else "nvrtc"; None if neither is there."""
    return "nvcc" if shutil.which("nvcc") else "nvrtc" if nvrtc.library() is not None else None


def resources(source: str, arch: int = 90) -> Resources:
    """Of the kernel of a source, compiled for sm_<arch>. Arrays that lie in local memory count as spilled."""
    said = _nvcc(source, arch) if compiler() == "nvcc" else nvrtc.compiled(source, arch, "--ptxas-options=-v")[1]
    registers = re.search(r"Used (\d+) registers", said)
    local = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", said)
    shared = re.search(r"(\d+) bytes smem", said)
    if registers is None or local is None:
        raise BackendError(f"the compiler does not say what a kernel takes:\n{said}")
    return Resources(int(registers[1]), sum(map(int, local.groups())), int(shared[1]) if shared else 0)


def _nvcc(source: str, arch: int) -> str:
    options = ["-std=c++17", f"-arch=sm_{arch}", "-cubin", "-Xptxas", "-v", "-I", str(nvrtc.source_folder())]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cu"
        file.write_text(source)
        command = ["nvcc", *options, str(file), "-o", str(file.with_suffix(".cubin"))]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BackendError(f"nvcc refuses a kernel for sm_{arch}:\n{done.stderr}")
    return done.stderr
