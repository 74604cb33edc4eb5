"""Peak memory of a step beyond its inputs and the tensors it returns: python bench/memory.py RIVAL CASE EDGES [STEP]

With the radial network inside, nothing is subtracted but the inputs.

Runs in a process of its own, prints bytes. The largest resident size during the step (Linux: VmHWM, reset before it)
counts every allocator, torch's and ours. A step on few edges comes first, so that code and tables are there.
"""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

STEPS = ("forward", "forward+backward", "force training")
# With the radial network, in total: the step of test_radial_convolution.py
RADIAL = {f"{step}, with radial network": step for step in ("forward", "forward+backward", "training")}


def resident(what: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at most since `reset`."""
    text = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith(what))


def reset() -> None:
    """Forget the largest resident size, and give free memory back first."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def sweep(f: Any, arguments: Any, cotangents: Any, step: str) -> list[Any]:
    """What a step returns: the sums, then their gradients, then the gradients of these along tangents of them.

    Cotangents and tangents are inputs: no arithmetic but that of the convolution is in it.
    """
    import torch

    x, y, w, index = arguments
    if step == "forward":
        with torch.no_grad():
            return [f(x, y, w, index)]
    out = f(x, y, w, index)
    first = torch.autograd.grad(out, (x, y, w), cotangents[0], create_graph=step == "force training")
    if step == "forward+backward":
        return [out, *first]
    return [out, *first, *torch.autograd.grad(first, (x, y, w, cotangents[0]), cotangents[1:])]


def inputs(name: str, edges: int, columns: int) -> tuple[Any, Any]:
    """The workload of the convolution benches, with cotangents of all that a step returns."""
    import torch
    from test_convolution import arguments

    *tensors, index = arguments(name, edges)
    out = torch.randn(tensors[0].shape[0], columns).requires_grad_()
    return (*(t.requires_grad_() for t in tensors), index), (out, *(torch.randn_like(t) for t in tensors))


def radial_peak(rival: str, name: str, edges: int, step: str) -> int:
    """Bytes of a convolution with its radial network beyond inputs, results counted, measured in this process."""
    import test_radial_convolution as bench
    import torch

    torch.set_num_threads(1)
    f, run = bench.layers(name)[0 if rival == "equikern" else 1], bench.STEPS[RADIAL[step]]
    for n in (60, 10000):  # e3nn is compiled in its first calls; a table is made where it will be used
        for _ in range(3):
            run(f, bench.inputs(name, n))
    given = bench.inputs(name, edges)
    reset()
    before = resident("VmRSS")
    run(f, given)
    return max(resident("VmHWM") - before, 0)


def peak(rival: str, name: str, edges: int, step: str) -> int:
    """Bytes beyond inputs and results, measured in this process."""
    if step in RADIAL:
        return radial_peak(rival, name, edges, step)
    import baselines
    import torch

    from equikern.nn import Convolution

    torch.set_num_threads(1)
    spec = baselines.case(name)
    f = Convolution(*spec) if rival == "equikern" else baselines.E3nnConv(*spec)
    for _ in range(3):  # e3nn is compiled in its first calls
        sweep(f, *inputs(name, 60, spec[2].dim), step)
    given = inputs(name, edges, spec[2].dim)
    reset()
    before = resident("VmRSS")
    results = sweep(f, *given, step)
    returned = sum(t.numel() * t.element_size() for t in results)
    return max(resident("VmHWM") - before - returned, 0)


def measure(rival: str, name: str, edges: int, step: str) -> int:
    """`peak` in a fresh process that returns memory as soon as it is freed."""
    command = [sys.executable, __file__, rival, name, str(edges), step]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "131072"}
    environment["PYTHONPATH"] = str(Path(__file__).parent)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


if __name__ == "__main__":
    print(peak(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] if len(sys.argv) > 4 else STEPS[-1]))
