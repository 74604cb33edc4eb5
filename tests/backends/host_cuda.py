"""The CUDA kernels on the host: the same sources, compiled by the C++ compiler against csrc/host, on CPU tensors."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from equikern.backends.cuda import nvrtc

CSRC = nvrtc.source_folder().parent
COMPILER = shutil.which(os.environ.get("CXX", "g++"))
FLAGS = ["-std=c++17", "-O0", "-fPIC", "-shared", "-DEQK_HOST", "-Wno-unknown-pragmas"]
# Kernels have the same names in each library: nothing of one may stand for that of another.
FLAGS += ["-fvisibility=hidden", "-fno-gnu-unique"]
CACHE = Path(tempfile.gettempdir()) / f"equikern-host-{os.getuid()}"


def built(text: str, made_of: str) -> Path:
    """The shared library of a C++ text; kept by the content of all it is made of."""
    CACHE.mkdir(mode=0o700, exist_ok=True)
    library = CACHE / f"{hashlib.sha256((text + made_of).encode()).hexdigest()[:24]}.so"
    if not library.exists():
        draft = library.with_suffix(f".{os.getpid()}")
        command = [COMPILER, *FLAGS, "-I", str(CSRC / "cuda"), "-I", str(CSRC / "host"), "-x", "c++", "-", "-o", draft]
        done = subprocess.run(command, input=text, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[:4000]
        draft.replace(library)
    return library


@cache
def shim() -> ctypes.CDLL:
    """The fibers that run a block's threads."""
    host = [(CSRC / "host" / name).read_text() for name in ("shim.cpp", "shim.hpp")]
    return ctypes.CDLL(str(built(host[0], host[1])), ctypes.RTLD_GLOBAL)


def library(source: str) -> Path:
    """Of a kernel's emitted source."""
    return built(source, "".join(nvrtc.headers().values()) + (CSRC / "host" / "shim.hpp").read_text())


@cache
def kernel(source: str, name: str) -> ctypes._CFuncPtr:
    """A kernel of an emitted source, as a function of the grid and the address of its argument."""
    shim()
    return getattr(ctypes.CDLL(str(library(source))), f"{name}_on_host")


def start(source: str, name: str, grid: tuple[int, int], threads: int, words: list[int]) -> None:
    """What `driver.start` does on a device."""
    kernel(source, name)(*grid, ctypes.byref((ctypes.c_int64 * len(words))(*words)))


@cache
def driver() -> ctypes.CDLL:
    """The driver's calls on the host: its "cubin" is the path of a kernel's library."""
    shim()
    return ctypes.CDLL(str(built((CSRC / "host" / "driver.cpp").read_text(), "")))
