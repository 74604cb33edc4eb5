"""The CUDA kernels on the host: the same sources, compiled by the C++ compiler against csrc/host, on CPU tensors."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest

from equikern import backends
from equikern.backends import cuda
from equikern.backends.cuda import driver as device_driver
from equikern.backends.cuda import nvrtc, resources
from equikern.backends.cuda.resources import Resources

CSRC = nvrtc.source_folder().parent
COMPILER = shutil.which(os.environ.get("CXX", "g++"))
FLAGS = ["-std=c++17", "-O0", "-fPIC", "-shared", "-DEQK_HOST", "-Wno-unknown-pragmas"]
# Kernels have the same names in each library: nothing of one may stand for that of another.
FLAGS += ["-fvisibility=hidden", "-fno-gnu-unique"]
CACHE = Path(tempfile.gettempdir()) / f"equikern-host-{os.getuid()}"
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler; set CXX")
needs_cuda_compiler = pytest.mark.skipif(resources.compiler() is None, reason="neither nvcc nor NVRTC is found")


def built(text: str, made_of: str) -> Path:
    """The shared library of a C++ text; kept by the content of all it is made of."""
    library = kept(text + made_of + " ".join(FLAGS), ".so")
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


def kept(text: str, suffix: str) -> Path:
    """Where something that is made of a text is kept."""
    CACHE.mkdir(mode=0o700, exist_ok=True)
    return CACHE / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}{suffix}"


def resources_of(source: str, arch: int) -> Resources:
    """`resources`, asked of the compiler once for each content: it takes a second or two a kernel."""
    file = kept("".join([source, *nvrtc.headers().values(), str(arch), compiler_version()]), ".json")
    if not file.exists():
        draft = file.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(resources.resources(source, arch)))
        draft.replace(file)
    return Resources(*json.loads(file.read_text()))


@cache
def compiler_version() -> str:
    """Of what compiles for devices."""
    if resources.compiler() == "nvcc":
        return subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    return nvrtc.version()


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


@pytest.fixture
def on_host(monkeypatch):
    """CUDA kernels take CPU tensors."""
    monkeypatch.setattr(device_driver, "start", start)
    monkeypatch.setattr(cuda, "unavailable", lambda device, dtype: None)
    choices = backends._select, backends._why_not
    for choice in choices:
        choice.cache_clear()
    yield
    for choice in choices:
        choice.cache_clear()
