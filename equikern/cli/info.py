"""Versions, backends with their reasons, the CPU's instruction set, threads, GPU."""

from __future__ import annotations

import argparse
import os
import platform
from importlib import metadata

PACKAGES = ("torch", "numpy", "triton", "e3nn", "sevenn", "mace-torch", "nequip", "ase")
EXAMPLE = (
    "eqk1 product mul_ir: x[sender] 32x0e+32x1o | y[edge] 0e+1o | w[edge] 96 | z[receiver] 32x0e+32x1o+32x1o : "
    "0 0 0 uvu 1.0 ; 0 1 1 uvu 1.0 ; 1 0 2 uvu 1.0"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None."""


def run(arguments: argparse.Namespace) -> int:
    """Print everything."""
    import torch

    import equikern
    from equikern.backends import cpu

    rows = [("equikern", equikern.__version__), ("python", platform.python_version())]
    rows += [(name, _version(name)) for name in PACKAGES]
    rows += [
        ("machine", f"{platform.machine()}, {os.cpu_count()} logical cores"),
        ("cpu target", cpu.target()),
        ("threads", str(torch.get_num_threads())),
        ("cuda", _cuda()),
    ]
    for name, value in rows:
        print(f"{name:12}{value}")
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    print("\nbackends, for a convolution:")
    for device in devices:
        print(equikern.explain(EXAMPLE, device=device, dtype=torch.float32))
    return 0


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _cuda() -> str:
    import torch

    if torch.cuda.is_available():
        return f"{torch.version.cuda}, {torch.cuda.get_device_name()}"
    return "this torch is built without CUDA" if torch.version.cuda is None else "no device"
