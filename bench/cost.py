"""A cost model: what the convolutions of bench/gpu.py must take on a GPU, and e3nn's ops beside them; nothing is run.

    python bench/cost.py [--write]

Every launch is counted: the real code runs on tensors without memory (device "meta"), where a dispatch mode sees each
op of torch and the kernels of a sweep say what they read and write. `--write` renews docs/cost.md.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import patch

import gpu
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from equikern import backends
from equikern.backends.gpu.sweep import RESULTS
from equikern.backends.triton.launch import TritonKernels
from equikern.program import parse
from equikern.program.program import Z

DOCS = Path(__file__).resolve().parents[1] / "docs" / "cost.md"
SIZES = (10_000, 100_000, 1_000_000)
SWEEPS = {"forward": ([Z], False), "backward": (gpu.INPUTS, False), "double backward": (gpu.ALL, True)}


class Device(NamedTuple):
    """A data sheet: bytes/s, float32 operations/s, bytes of the last-level cache."""

    bandwidth: float
    float32: float
    cache: float


DEVICES = {
    "A100": Device(2.0e12, 19.5e12, 40e6),  # with 80 GB
    "H100": Device(3.35e12, 67e12, 50e6),
    "H200": Device(4.8e12, 67e12, 50e6),
}
# Of the data sheet, what a device reaches: a copy and a float32 matrix product on an H200 (bench/gpu.json).
BANDWIDTH_REACHED, FLOAT32_REACHED = 0.89, 0.77
LATENCY = 2e-6  # of a launch, on the device


class Launch(NamedTuple):
    """A kernel: bytes that it streams, rows that it gathers or scatters as (size of the operand, bytes), operations."""

    name: str
    stream: float
    gathered: tuple[tuple[float, float], ...] = ()
    flops: float = 0

    def bytes(self, cache: float) -> float:
        """From and to memory. Of an operand that is larger than the cache, so much as does not fit comes each time."""
        return self.stream + sum(
            min(size, moved) + max(moved - size, 0) * max(1 - cache / size, 0) for size, moved in self.gathered if size
        )

    def seconds(self, device: Device) -> float:
        """At the bandwidth or the float32 rate that a device reaches, whichever takes longer, and the latency."""
        memory = self.bytes(device.cache) / (BANDWIDTH_REACHED * device.bandwidth)
        return max(memory, self.flops / (FLOAT32_REACHED * device.float32)) + LATENCY


def seconds(launches: list[Launch], device: Device) -> float:
    """One after the other."""
    return sum(launch.seconds(device) for launch in launches)


# --- counting


class Counter(TorchDispatchMode):
    """Inside a `with` block, lists the launches of ops of torch, and of the sweeps that a program's op makes."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: list[Launch] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.equikern.contract.default:
            text, _, *rest = args
            kernels = {
                "run": lambda made, values, rows, dtype: self.launches.append(sweep_launch(made, values)),
                "run_sum": lambda made, part, dx, graph: self.launches.append(
                    Launch("sum of x", sum(map(size, (part, dx, *graph))), flops=part.numel())
                ),
            }
            with self, patch.multiple(TritonKernels, **kernels):
                return backends.triton.contract(parse(text), *rest)
        found = func(*args, **(kwargs or {}))
        launch = torch_launch(func, args, found)
        if launch is not None:
            self.launches.append(launch)
        return found


def sweep_launch(made: TritonKernels, values: dict[str, Any]) -> Launch:
    """What a sweep moves: the operand that is read at a row of each edge is gathered, all else is moved once."""
    other = ("x", "hx") if made.sweep.owner == Z else ("g",)
    tensors = {name: a for name, a in values.items() if isinstance(a, Tensor)}
    edges = values["edges"]
    gathered = {n: a for n, a in tensors.items() if n in other and made.sweep.indexed}
    rows = tuple((size(a), edges * a.shape[1] * a.element_size()) for a in gathered.values())
    program = made.program.along(gpu.INPUTS) if made.sweep.second else made.program
    names = ", ".join(RESULTS[slot] for slot in made.sweep.open)
    stream = sum(size(a) for n, a in tensors.items() if n not in gathered)
    return Launch(f"sweep of {names}", stream, rows, program.flops(edges, made.sweep.open))


def torch_launch(func: Any, args: Any, found: Any) -> Launch | None:
    """What an op of torch moves; None for views and memory that is only allocated."""
    name = func._schema.name.removeprefix("aten::")
    tensors = [a for a in flat(args) if isinstance(a, Tensor)]
    results = [a for a in flat([found]) if isinstance(a, Tensor)]
    if func.is_view or not results or name.startswith(("empty", "new_empty", "_unsafe_view", "detach", "lift")):
        return None
    read, written = sum(map(size, tensors)), sum(map(size, results))
    if name in ("index", "index_select", "gather"):
        return Launch(name, read - size(args[0]) + written, ((size(args[0]), written),))
    if name in ("index_add", "index_add_", "index_put", "index_put_", "_index_put_impl_", "scatter_add"):
        source = max(map(size, tensors[1:]))
        target = size(args[0])
        copied = 0 if name.endswith("_") else 2 * target
        return Launch(name, read - target + copied, ((target, 2 * source),))
    flops = sum(r.numel() for r in results)
    if name in ("mm", "bmm", "addmm", "baddbmm"):
        flops *= 2 * tensors[-1].shape[-2]
    if name in ("zeros", "new_zeros", "ones", "new_ones", "zeros_like", "ones_like", "fill_", "zero_", "full_like"):
        read = 0
    return Launch(name, read + written, flops=flops)


def size(a: Tensor) -> int:
    """Bytes of a tensor in memory: an expanded dimension counts once."""
    count = 1
    for extent, stride in zip(a.shape, a.stride(), strict=True):
        count *= extent if stride or not extent else 1
    return count * a.element_size()


def flat(values: Any) -> list[Any]:
    """Elements of nested lists."""
    return [b for a in values for b in (flat(a) if isinstance(a, (list, tuple)) else [a])]


def workload(name: str, edges: int) -> gpu.Workload:
    """A case of bench/gpu.py of any size, without memory."""
    load = gpu.Workload(name, 60, "cpu")
    load.edges, load.nodes = edges, max(edges // gpu.DEGREE, 1)
    rows = {"edge": edges, "sender": load.nodes}

    def index(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.int64, device="meta")

    def operand(slot: int) -> Tensor:
        return torch.empty(rows[load.program.rows[slot]], load.program.dims[slot], device="meta")

    load.tensors = [operand(slot) for slot in range(3)]
    if name == "schnet":
        load.one = load.tensors.pop(1)
    load.edge_index = index(2, edges)
    plan = [index(load.nodes + 1), index(edges)]
    load.graph = SimpleNamespace(index=[*load.edge_index, *plan, *plan])
    return load


def launches(call: Callable[[], Any]) -> list[Launch]:
    """Of a call."""
    with Counter() as counter:
        call()
    return counter.launches


def sweeps(name: str, edges: int) -> dict[str, list[Launch]]:
    """Of the three calls of the op that bench/gpu.py times."""
    load = workload(name, edges)
    return {kernel: launches(gpu.contract(load, *given)) for kernel, given in SWEEPS.items()}


def steps(name: str, edges: int) -> dict[str, tuple[list[Launch], list[Launch]]]:
    """Of whole steps through autograd, ours and the rival's."""
    load = workload(name, edges)
    _, rival = load.rival()
    return {
        step: (
            launches(lambda run=run: run(load.ours, load.tensors)),
            launches(lambda run=run: run(rival, load.tensors)),
        )
        for step, run in gpu.STEPS.items()
    }


# --- tables


def measurements() -> dict[str, dict[str, Any]]:
    """Results of bench/gpu.py, gpu.json and gpu-<device>.json, by the device of the table that they were taken on."""
    files = [file for pattern in ("gpu.json", "gpu-*.json") for file in Path(__file__).parent.glob(pattern)]
    found = [json.loads(file.read_text()) for file in files]
    return {name: r for name in DEVICES for r in found if name in r["machine"]["device"]}


def measured(results: dict[str, Any], part: str, **at: Any) -> dict[str, Any]:
    """The row of a part of the results; {} if it is not there."""
    return next((row for row in results[part] if at.items() <= row.items()), {})


def sweep_table(against: dict[str, dict[str, Any]]) -> list[str]:
    """Predictions for sweeps; times in microseconds, the measured one with its ratio to the prediction."""
    heads = [*(f"{d}, µs" for d in DEVICES), *(f"measured, {d}, µs" for d in against)]
    lines = [f"| case | edges | sweep | launches | MB | GFLOP | {' | '.join(heads)} |", "|---" * (6 + len(heads)) + "|"]
    for name in gpu.CASES:
        for edges in SIZES:
            for kernel, found in sweeps(name, edges).items():
                megabytes = sum(launch.bytes(DEVICES["H200"].cache) for launch in found) / 1e6
                cells = [name, f"{edges}", kernel, f"{len(found)}", f"{megabytes:.0f}"]
                cells.append(f"{sum(launch.flops for launch in found) / 1e9:.3g}")
                cells += [f"{seconds(found, device) * 1e6:.0f}" for device in DEVICES.values()]
                for device, results in against.items():
                    took = measured(results, "kernels", case=name, edges=edges, kernel=kernel).get("median")
                    ratio = took and took / seconds(found, DEVICES[device])
                    cells.append(f"{took * 1e6:.0f} ({ratio:.1f}×)" if took else "–")
                lines.append(f"| {' | '.join(cells)} |")
    return lines


def step_table(against: dict[str, dict[str, Any]]) -> list[str]:
    """Predicted and measured times of the rival's step over ours."""
    heads = [*DEVICES, *(f"measured, {d}" for d in against), *(f"in a CUDA graph, {d}" for d in against)]
    head = "| case | edges | step | launches: ours, rival | MB: ours, rival"
    lines = [f"{head} | {' | '.join(heads)} |", "|---" * (5 + len(heads)) + "|"]
    for name in gpu.CASES:
        for edges in SIZES:
            for step, both in steps(name, edges).items():
                megabytes = (sum(launch.bytes(DEVICES["H200"].cache) for launch in found) / 1e6 for found in both)
                cells = [name, f"{edges}", step, ", ".join(f"{len(found)}" for found in both)]
                cells.append(", ".join(f"{n:.0f}" for n in megabytes))
                cells += [f"{seconds(both[1], d) / seconds(both[0], d):.0f}×" for d in DEVICES.values()]
                for mode in ("", " graph"):
                    for results in against.values():
                        row = measured(results, "steps", case=name, edges=edges, step=step)
                        a, b = (row.get(who + mode, {}).get("median") for who in ("ours", "theirs"))
                        cells.append(f"{b / a:.1f}×" if a and b else "–")
                lines.append(f"| {' | '.join(cells)} |")
    return lines


def device_table() -> list[str]:
    """What is known of each device, and what of it is taken to be reached."""
    lines = ["| device | TB/s | reached | float32 TFLOP/s | reached | cache, MB | launch, µs |", "|---" * 7 + "|"]
    for name, d in DEVICES.items():
        memory, rate = d.bandwidth / 1e12, d.float32 / 1e12
        lines.append(
            f"| {name} | {memory:.2f} | {BANDWIDTH_REACHED * memory:.2f} | {rate:.1f} | {FLOAT32_REACHED * rate:.1f} | "
            f"{d.cache / 1e6:.0f} | {LATENCY * 1e6:.0f} |"
        )
    return lines


def renewed(page: str) -> str:
    """docs/cost.md with its three tables as they are now."""
    against = measurements()
    tables = iter([device_table(), sweep_table(against), step_table(against)])
    return re.sub(r"(?m)(^\|.*\n)+", lambda _: "\n".join(next(tables)) + "\n", page)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="renew the tables of docs/cost.md")
    given = parser.parse_args()
    page = renewed(DOCS.read_text())
    if given.write:
        DOCS.write_text(page)
        print(f"wrote {DOCS}")
    else:
        print(page)


if __name__ == "__main__":
    main()
