"""Compiles the kernels of the real layers without a device and writes bench/RESOURCES.md: what they take.

    python bench/resources.py [--backend triton cuda]

Needs Triton, and nvcc on the path or NVRTC (`pip install nvidia-cuda-nvrtc`); first use of CUDA C++ is measured with
NVRTC alone. A backend that is not asked for keeps its table. Takes seven minutes on one core.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
from typing import NamedTuple

import torch

from equikern.backends.cuda import harmonics, nvrtc, symmetric_source
from equikern.backends.cuda import resources as cuda
from equikern.backends.cuda.launch import maker, reals
from equikern.backends.gpu import launch
from equikern.backends.triton import launch as triton_launch
from equikern.ops.spline import OFFSETS
from equikern.program import Program, painn_message, tabled
from equikern.testing import SYMMETRIC, get, tagged

ARCHS = (80, 90)
HARMONICS = "sh 0,1,2,3 component normalize"
FILE = Path(__file__).with_name("RESOURCES.md")
TITLES = {"triton": "Triton", "cuda": "CUDA C++", "first use": "First use"}
BACKENDS = ("triton", "cuda")
CONVOLUTIONS = ("mace-conv", "nequip-conv", "sevennet-conv")
HEAD = """# What the kernels for GPUs take

Registers of a thread / bytes that it spills / bytes of memory that a block shares, as the compiler says. They are a
budget: `tests/backends/test_resources.py` compiles the kernels of MACE, NequIP, SevenNet, PaiNN and of element-wise
products again and fails at a spill or at 8 registers more. Seconds are those of one core that compiles for sm_90.
Written by `python bench/resources.py`; no kernel was run.
"""
TABLE = """
## {title}

{text}

| case | kernel | dtype | {archs} | s |
|---|---|---|{bars}---|
"""
FIRST_USE = """
## First use

Every kernel that a convolution needs forward, backward and double backward, in float32 for sm_90: seconds of one core
that makes them, their sources included, with an empty cache and in a second process; importing torch, loading and
launching are not in it. Of Triton's second process, 0.3 s is the hash of its own library, which it takes once a
process; most of the first is one of its passes (TritonGPUCoalesce), whose time grows faster than a kernel does. The
gradient of a table itself takes further kernels.

| case | backend | kernels | empty cache, s | second process, s |
|---|---|---|---|---|
"""


class Kernel(NamedTuple):
    """A line of a table, and how to fill it."""

    case: str
    name: str
    dtype: str
    resources: Callable[[int], tuple[int, ...]]


def kernels(backend: str) -> Iterator[Kernel]:
    """Of every real layer, in CUDA C++ also the harmonics and symmetric contractions; float64 in CUDA C++ only."""
    programs = {case.id: case.program for case in tagged("real", "channelwise") if case.program.family == "product"}
    programs |= {"painn message, 128": painn_message(128)} | elementwise() | tables()
    for dtype in (torch.float32, torch.float64) if backend == "cuda" else (torch.float32,):
        real = str(dtype).removeprefix("torch.")
        for case, program in programs.items():
            for name, resources in of_program(backend, program.text, dtype).items():
                yield Kernel(case, name, real, resources)
        if backend == "cuda":
            for order, name in enumerate(("forward", "backward", "double backward")):
                source = harmonics.source(HARMONICS, order, "float" if dtype == torch.float32 else "double")
                yield Kernel("harmonics to degree 3", name, real, partial(cuda.resources, source))
            contraction = SYMMETRIC["mace-128"][0].text
            for name, source in symmetric_source.sources(contraction, reals(dtype)).items():
                yield Kernel("symmetric contraction of mace", name, real, partial(cuda.resources, source))


def elementwise() -> dict[str, Program]:
    """Products of equal channels."""
    return {case.id: case.program for case in tagged("real", "elementwise")}


def tables() -> dict[str, Program]:
    """Convolutions whose weights come from a table of splines."""
    return {f"{case}, table": tabled(get(case).program, OFFSETS) for case in CONVOLUTIONS}


def convolutions() -> dict[str, Program]:
    """The layers whose first use is measured."""
    return {case: get(case).program for case in CONVOLUTIONS} | tables()


def of_program(backend: str, text: str, dtype: torch.dtype = torch.float32) -> dict[str, Callable[[int], tuple]]:
    """Of each sweep of a training step, and of the sum of gradients of x, what it takes on an architecture."""
    if backend == "cuda":
        made = launch.steps(maker(dtype), text)
        found = {name: partial(cuda.resources, kernels.source) for name, kernels in made.items()}
        if made["backward"].sums_x:
            found["sum of x"] = partial(cuda.resources, made["backward"].sum_source)
        return found
    from equikern.backends.triton import resources

    made = triton_launch.steps(text)
    found = {name: partial(resources.sweep_resources, kernels, dtype=dtype) for name, kernels in made.items()}
    if made["backward"].sums_x:
        found["sum of x"] = partial(resources.sum_resources, made["backward"], dtype=dtype)
    return found


def seconds() -> float:
    """Of a processor, those of compilers that were started included."""
    return sum(sum(getrusage(who)[:2]) for who in (RUSAGE_SELF, RUSAGE_CHILDREN))


def table(backend: str) -> Iterator[str]:
    """Its lines."""
    text = {"triton": "Version {}.", "cuda": "By {}."}[backend].format(compiler(backend))
    archs, bars = " | ".join(f"sm_{arch}" for arch in ARCHS), "---|" * len(ARCHS)
    yield TABLE.format(title=TITLES[backend], text=text, archs=archs, bars=bars)
    for kernel in kernels(backend):
        cells = []
        for arch in ARCHS:
            start = seconds()
            cells.append(" / ".join(map(str, kernel.resources(arch)[:3])))
        cells.append(f"{seconds() - start:.1f}")
        yield f"| {kernel.case} | {kernel.name} | {kernel.dtype} | {' | '.join(cells)} |\n"


def compiler(backend: str) -> str:
    """Its name and version."""
    if backend == "triton":
        import triton

        return str(triton.__version__)
    if cuda.compiler() == "nvcc":
        said = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True).stdout
        return "nvcc " + re.search(r"release ([\d.]+)", said)[1]  # type: ignore[index]
    return f"NVRTC {nvrtc.version()}"


def budget(file: Path = FILE) -> dict[tuple[str, str, str, str, int], tuple[int, ...]]:
    """(backend, case, kernel, dtype, arch): registers, spilled and shared bytes, as the file has them."""
    found = {}
    for backend, text in sections(file).items():
        for line in text.splitlines():
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if backend in BACKENDS and len(cells) == 4 + len(ARCHS) and "/" in cells[3]:
                for arch, cell in zip(ARCHS, cells[3:], strict=False):
                    found[backend, *cells[:3], arch] = tuple(map(int, cell.split("/")))
    return found


def sections(file: Path = FILE) -> dict[str, str]:
    """The text of each part of the file, its title included."""
    parts = re.split(r"(?=\n## )", file.read_text())[1:] if file.exists() else []
    return {name: part for name, title in TITLES.items() for part in parts if part.startswith(f"\n## {title}\n")}


def make(backend: str, case: str) -> None:
    """Print how many kernels a convolution needs, and the seconds that making them took."""
    import triton  # noqa: F401  (not counted)

    text = convolutions()[case].text
    if backend == "cuda":
        version, start = nvrtc.version(), seconds()
        assert version
        made = launch.steps(maker(torch.float32), text)
        sources = [kernels.source for kernels in made.values()]
        sources += [made["backward"].sum_source] * made["backward"].sums_x
        for source in sources:
            nvrtc.cubin(source, 90)
        print(len(sources), seconds() - start)
        return
    from equikern.backends.triton.resources import compile_sum, compile_sweep

    start, steps = seconds(), triton_launch.steps(text)
    done = [compile_sweep(kernels) for kernels in steps.values()]
    done += [compile_sum(steps["backward"])] * steps["backward"].sums_x
    print(len(done), seconds() - start)


def first_use() -> Iterator[str]:
    """The lines of its table; a process for each entry."""
    yield FIRST_USE
    for case in convolutions():
        for backend in BACKENDS:
            if backend == "cuda" and nvrtc.library() is None:
                raise SystemExit("first use of CUDA C++ is measured with NVRTC: pip install nvidia-cuda-nvrtc")
            with tempfile.TemporaryDirectory() as folder:
                environment = os.environ | {"TRITON_CACHE_DIR": folder, "EQUIKERN_CACHE_DIR": folder}
                command = [sys.executable, __file__, "--make", backend, case]
                said = [
                    subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()
                    for _ in range(2)
                ]
            (many, first), (_, second) = said
            yield f"| {case} | {TITLES[backend]} | {many} | {float(first):.1f} | {float(second):.3f} |\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", nargs="*", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--make", nargs=2, metavar=("BACKEND", "CASE"), help="make a convolution's kernels, print s")
    given = parser.parse_args()
    if given.make:
        make(*given.make)
        return
    if "cuda" in given.backend and cuda.compiler() is None:
        raise SystemExit("neither nvcc nor NVRTC is found; put nvcc on the path, or pip install nvidia-cuda-nvrtc")
    parts = sections()
    for name, lines in [("first use", first_use())] + [(b, table(b)) for b in given.backend]:
        parts[name] = ""
        for line in lines:
            print(line, end="", flush=True)
            parts[name] += line
    FILE.write_text(HEAD + "".join(parts[name] for name in TITLES))
    print(f"wrote {FILE}")


if __name__ == "__main__":
    main()
