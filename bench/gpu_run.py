"""What the benches on a CUDA device share: options, times of CUDA events, facts of the machine, the file of results."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def options(doc: str | None, name: str) -> argparse.ArgumentParser:
    """A parser that knows --out, --table and --dry."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(f"bench/out/{name}.json"))
    parser.add_argument("--table", type=Path, help="print the tables of a file of results, measure nothing")
    parser.add_argument("--dry", action="store_true", help="small, on the CPU")
    return parser


def need_device() -> None:
    """End, and say why, where PyTorch finds no CUDA device."""
    if not torch.cuda.is_available():
        raise SystemExit("PyTorch finds no CUDA device here. With --dry the scripts of bench/ rehearse without one.")


class Run:
    """One run of a bench: its options, the device, and its results, which are written as they come."""

    def __init__(self, parser: argparse.ArgumentParser, tables: Callable[[dict[str, Any]], str], **parts: Any) -> None:
        """`tables` shows results as markdown; `parts`: what they begin with."""
        self.given, self.tables = parser.parse_args(), tables
        if self.given.table:
            print(tables(json.loads(self.given.table.read_text())))
            raise SystemExit(0)
        self.dry, self.device = self.given.dry, "cpu" if self.given.dry else "cuda"
        if not self.dry:
            need_device()
        torch.backends.cuda.matmul.allow_tf32 = False
        self.given.out.parent.mkdir(parents=True, exist_ok=True)
        self.results: dict[str, Any] = {"machine": machine(self.device), **parts}

    def save(self, said: str = "") -> None:
        """Write what there is, and say something."""
        self.given.out.write_text(json.dumps(self.results, indent=1))
        if said:
            print(said, flush=True)

    def end(self) -> None:
        """Write all, and print it as tables."""
        self.save(self.tables(self.results))


def seconds(call: Callable[[], Any], device: str, budget: float = 0.25) -> dict[str, float]:
    """Median and best time of a call, warm."""
    call()
    call()
    if device == "cpu":
        start = time.perf_counter()
        call()
        took = time.perf_counter() - start
        return {"median": took, "best": took, "runs": 1}
    torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    torch.cuda.synchronize()
    runs = max(5, min(50, int(budget / (time.perf_counter() - start + 1e-9))))
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(runs)]
    for begin, end in events:
        begin.record()
        call()
        end.record()
    torch.cuda.synchronize()
    times = [begin.elapsed_time(end) * 1e-3 for begin, end in events]
    return {"median": statistics.median(times), "best": min(times), "runs": runs}


def graphed(call: Callable[[], Any]) -> Callable[[], Any]:
    """The call captured in a CUDA graph: its time is the device's alone."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = call()
    return lambda: (graph.replay(), kept)


def machine(device: str) -> dict[str, Any]:
    """What the device is, and its measured copy bandwidth and float32 matrix rate (no TF32)."""
    n, m = (1 << 30, 8192) if device == "cuda" else (1 << 20, 256)
    a = torch.randn(n // 4, device=device)
    b = torch.empty_like(a)
    copy = seconds(lambda: b.copy_(a), device)["best"]
    p = torch.randn(m, m, device=device)
    product = seconds(lambda: p @ p, device)["best"]
    facts = {"device": "cpu", "torch": torch.__version__, "bandwidth": 2 * n / copy, "float32": 2 * m**3 / product}
    if device == "cuda":
        import triton

        properties = torch.cuda.get_device_properties(0)
        facts |= {"device": properties.name, "multiprocessors": properties.multi_processor_count}
        facts |= {"memory": properties.total_memory, "triton": triton.__version__, "cuda": torch.version.cuda}
    return facts
