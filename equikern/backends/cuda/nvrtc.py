"""Compiles the kernels with NVRTC, the compiler that PyTorch's CUDA builds bring, and keeps them on disk by content.

No toolkit and no device are needed. The sources of csrc/cuda travel with the package.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import sys
import tempfile
from functools import cache
from pathlib import Path

from equikern.errors import BackendError

HEADERS = (
    "device.cuh", "lanes.cuh", "path.cuh", "table.cuh", "sweep.cuh", "sum.cuh", "harmonics.cuh", "spline.cuh",
    "symmetric.cuh",
)  # fmt: skip
MAJORS = (13, 12)


def source_folder() -> Path:
    """Where the .cuh files are: in the installed package, or in the checkout that an editable install points to."""
    package = Path(__file__).resolve().parents[2]
    for folder in (package / "csrc" / "cuda", package.parent / "csrc" / "cuda"):
        if folder.is_dir():
            return folder
    raise BackendError(f"the CUDA sources are not at {package / 'csrc' / 'cuda'}; install equikern again.")


@cache
def headers() -> dict[str, str]:
    """The .cuh files by name."""
    folder = source_folder()
    return {name: (folder / name).read_text() for name in HEADERS}


@cache
def library() -> ctypes.CDLL | None:
    """NVRTC of torch's CUDA version: what the loader finds, else the one in NVIDIA's wheel; None if there is none."""
    import torch

    major = int(torch.version.cuda.split(".")[0]) if torch.version.cuda else None
    majors = (major,) if major else MAJORS
    names = [f"libnvrtc.so.{m}" for m in majors]
    folders = [Path(entry) / "nvidia" / f / "lib" for entry in sys.path for f in ("cuda_nvrtc", "cu13")]
    for file in [*map(Path, names), *(folder / name for folder in folders for name in names)]:
        try:
            for builtins in file.parent.glob("libnvrtc-builtins.so*") if file.is_absolute() else ():
                ctypes.CDLL(str(builtins))  # NVRTC looks for it by name only
            return ctypes.CDLL(str(file))
        except OSError:
            continue
    return None


@cache
def version() -> str:
    """NVRTC's version, as 13.0."""
    nvrtc, major, minor = _library(), ctypes.c_int(), ctypes.c_int()
    _check(nvrtc.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
    return f"{major.value}.{minor.value}"


def _library() -> ctypes.CDLL:
    found = library()
    if found is None:
        raise BackendError("NVRTC (libnvrtc.so) is not found; install PyTorch for CUDA, or use backend 'triton'.")
    return found


def _check(status: int) -> None:
    if status:
        raise BackendError(f"NVRTC failed with status {status}.")


def compiled(source: str, arch: int, *more: str) -> tuple[bytes, str]:
    """The cubin of a source for sm_<arch>, and what the compiler said; `more`: options."""
    nvrtc, program = _library(), ctypes.c_void_p()
    names, texts = headers().keys(), headers().values()
    array = ctypes.c_char_p * len(names)
    given = (array(*(t.encode() for t in texts)), array(*(n.encode() for n in names)))
    _check(nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernel.cu", len(names), *given))
    try:
        options = [f"--gpu-architecture=sm_{arch}", "--std=c++17", "-default-device", *more]
        encoded = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        status = nvrtc.nvrtcCompileProgram(program, len(options), encoded)
        log = _read(nvrtc, program, "ProgramLog").rstrip(b"\0").decode()
        if status:
            raise BackendError(f"NVRTC {version()} refuses a kernel for sm_{arch}:\n{log}\n{source}")
        return _read(nvrtc, program, "CUBIN"), log
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _read(nvrtc: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    _check(getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    buffer = ctypes.create_string_buffer(size.value)
    _check(getattr(nvrtc, f"nvrtcGet{what}")(program, buffer))
    return buffer.raw


def cache_folder() -> Path:
    """EQUIKERN_CACHE_DIR, else ~/.cache/equikern."""
    named = os.environ.get("EQUIKERN_CACHE_DIR")
    return Path(named) if named else Path.home() / ".cache" / "equikern"


def cubin(source: str, arch: int) -> bytes:
    """The cubin of a source, compiled once: kept by the content of all it is made of, also for other processes."""
    content = "\0".join([source, *headers().values(), str(arch), version()])
    file = cache_folder() / f"{hashlib.sha256(content.encode()).hexdigest()[:32]}.cubin"
    try:
        return file.read_bytes()
    except OSError:
        made, _ = compiled(source, arch)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as draft:
            draft.write(made)
        os.replace(draft.name, file)  # at once: no process sees half a file
    except OSError:
        pass  # a disk that cannot be written costs time, no results
    return made
