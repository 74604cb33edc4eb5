"""Compiles kernels for a GPU that need not be there, and reads what they take: registers, spills, shared memory."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch

from equikern.backends.triton.launch import TritonKernels


class Resources(NamedTuple):
    """Of one kernel: registers a thread, bytes spilled a thread, bytes of shared memory, bytes of code."""

    registers: int
    spilled: int
    shared: int
    code: int


def sweep_resources(made: TritonKernels, arch: int = 90, dtype: torch.dtype = torch.float32) -> Resources:
    """Of the sweep kernel compiled for sm_<arch>. TRITON_INTERPRET must be unset."""
    return _resources(compile_sweep(made, arch, dtype))


def sum_resources(made: TritonKernels, arch: int = 90, dtype: torch.dtype = torch.float32) -> Resources:
    """Of the kernel that sums the gradients of x."""
    return _resources(compile_sum(made, arch, dtype))


def compile_sweep(made: TritonKernels, arch: int = 90, dtype: torch.dtype = torch.float32) -> Any:
    """Triton's compiled kernel, from its cache on disk where it is there."""
    return _compile(made.sweep_kernel(dtype).jit, made.arguments, arch, dtype, made.options(dtype))


def compile_sum(made: TritonKernels, arch: int = 90, dtype: torch.dtype = torch.float32) -> Any:
    """As `compile_sweep`, of the kernel that sums the gradients of x."""
    kernel = made.sum_kernel.jit
    names = tuple(name for name in kernel.arg_names if name != "T")
    return _compile(kernel, names, arch, dtype, {"num_warps": 1})


def _compile(kernel: Any, names: tuple[str, ...], arch: int, dtype: torch.dtype, options: dict[str, int]) -> Any:
    import triton
    import triton.language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    real = {torch.float32: "*fp32", torch.float64: "*fp64", torch.float16: "*fp16", torch.bfloat16: "*bf16"}[dtype]
    signature = dict.fromkeys(kernel.arg_names, "constexpr")
    for name in names:
        integer = dict.fromkeys(("x_index", "z_index", "knot", "ptr", "order"), "*i64")
        integer |= dict.fromkeys(("edges", "x_rows", "z_rows", "w_rows"), "i64")
        signature[name] = integer.get(name, real)
    constants = {"T": tl.float64 if dtype == torch.float64 else tl.float32, "ROWS": 1}
    place = {name: (n,) for n, name in enumerate(kernel.arg_names)}
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={place[n]: v for n, v in constants.items() if n in place},
        attrs={place[n]: [["tt.divisibility", 16]] for n in names if signature[n].startswith("*")},
    )
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)


def _resources(made: Any) -> Resources:
    return Resources(*_assembled(made.asm["ptx"]), made.metadata.shared, len(made.asm["cubin"]))


def _assembled(ptx: str) -> tuple[int, int]:
    """Registers and spilled bytes, by the assembler that Triton brings."""
    import triton

    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    version = float(re.search(r"\.version\s+([\d.]+)", ptx)[1])  # type: ignore[index]
    target = re.search(r"\.target\s+(sm_\w+)", ptx)[1]  # type: ignore[index]
    blackwell = tools / "ptxas-blackwell"
    tool = blackwell if version >= 9.0 and blackwell.exists() else tools / "ptxas"
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        command = [str(tool), "-v", f"--gpu-name={target}", file.name, "-o", "/dev/null"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    registers = re.search(r"Used (\d+) registers", said)
    # A line for the kernel, and one for each function that is not inlined.
    spilled = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", said)
    return int(registers[1]), sum(int(n) for pair in spilled for n in pair)  # type: ignore[index]
