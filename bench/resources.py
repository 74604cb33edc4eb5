"""Compiles the CUDA kernels of the real layers without a device and writes bench/RESOURCES.md: what they take.

    python bench/resources.py

Needs nvcc on the path, or NVRTC (`pip install nvidia-cuda-nvrtc`). Takes a few minutes on one core.
"""

from __future__ import annotations

from pathlib import Path

import torch

from equikern.backends.cuda import harmonics
from equikern.backends.cuda.launch import maker
from equikern.backends.cuda.resources import Resources, compiler, resources
from equikern.backends.gpu.launch import steps
from equikern.program import painn_message
from equikern.testing import tagged

ARCHS = (80, 90)
HARMONICS = "sh 0,1,2,3 component normalize"
HEAD = """# What the CUDA kernels take

Registers of a thread / bytes that it spills / bytes of memory that a block shares, as the compiler says; a spill fails
`tests/backends/test_cuda.py`. Written by `python bench/resources.py`; no kernel was run.

| case | kernel | dtype | {} |
|---|---|---|{}|
"""


def rows() -> list[tuple[str, str, str, str]]:
    """Case, kernel, dtype and source of everything in the table."""
    programs = {case.id: case.program for case in tagged("real", "channelwise") if case.program.family == "product"}
    programs["painn message, 128"] = painn_message(128)
    found = []
    for dtype in (torch.float32, torch.float64):
        real = str(dtype).removeprefix("torch.")
        for name, program in programs.items():
            made = steps(maker(dtype), program.text)
            found += [(name, kernel, real, kernels.source) for kernel, kernels in made.items()]
        for order, kernel in enumerate(("forward", "backward", "double backward")):
            source = harmonics.source(HARMONICS, order, "float" if dtype == torch.float32 else "double")
            found.append(("harmonics to degree 3", kernel, real, source))
    return found


def cell(found: Resources) -> str:
    """One entry of the table."""
    return f"{found.registers} / {found.spilled} / {found.shared}"


def main() -> None:
    if compiler() is None:
        raise SystemExit("neither nvcc nor NVRTC is found; put nvcc on the path, or pip install nvidia-cuda-nvrtc")
    file = Path(__file__).with_name("RESOURCES.md")
    lines = [HEAD.format(" | ".join(f"sm_{arch}" for arch in ARCHS), "|".join(["---"] * len(ARCHS)))]
    for case, kernel, dtype, source in rows():
        cells = " | ".join(cell(resources(source, arch)) for arch in ARCHS)
        lines.append(f"| {case} | {kernel} | {dtype} | {cells} |\n")
        print(lines[-1], end="", flush=True)
    file.write_text("".join(lines))
    print(f"wrote {file}")


if __name__ == "__main__":
    main()
