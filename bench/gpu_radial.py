"""Measures convolutions with their radial network and harmonics on a CUDA device, the network on both sides.

    python bench/gpu_radial.py --out bench/out/gpu_radial.json [--cases mace ...] [--edges 10000 ...] [--dry]

Ours is `RadialConvolution`, with its table (whose making is not timed) and with its network; the rival is e3nn's
harmonics and product with the same network. Times are as in gpu.py; "forces" is a value and its gradient with respect
to edge_vec, "inner layer" to x as well, parameters frozen. A case is timed after its value and its gradients agree with
float64. Memory is the peak of a call above what was there before it.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import baselines
import torch
from gpu import CONVOLUTIONS, DEGREE
from gpu_run import Run, graphed, options, seconds
from test_radial_convolution import R_MAX, Network, Rival

from equikern.graph import Graph
from equikern.nn import RadialConvolution

Layer = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Step = Callable[[Layer, torch.Tensor, torch.Tensor], list[torch.Tensor]]
WHO = ("table", "network", "e3nn")


def forward(f: Layer, x: torch.Tensor, vec: torch.Tensor) -> list[torch.Tensor]:
    """Without gradients."""
    with torch.no_grad():
        return [f(x, vec)]


def forces(f: Layer, x: torch.Tensor, vec: torch.Tensor) -> list[torch.Tensor]:
    """A value and its gradient with respect to edge_vec."""
    vec = vec.detach().requires_grad_()
    return list(torch.autograd.grad(f(x, vec).square().sum(), vec))


def inner(f: Layer, x: torch.Tensor, vec: torch.Tensor) -> list[torch.Tensor]:
    """A value and its gradient with respect to x and edge_vec."""
    leaves = [t.detach().requires_grad_() for t in (x, vec)]
    return list(torch.autograd.grad(f(*leaves).square().sum(), leaves))


STEPS: dict[str, Step] = {"forward": forward, "forces": forces, "inner layer": inner}


@cache
def modules(name: str, device: str) -> tuple[RadialConvolution, RadialConvolution, Rival]:
    """A layer with its table, with its network, and the rival: one network, so that one table is made."""
    torch.manual_seed(0)
    spec = baselines.case(name)
    network = Network(RadialConvolution(*spec, radial=torch.nn.Identity(), r_max=R_MAX).weight_numel)
    tabled, plain = (RadialConvolution(*spec, radial=network, r_max=R_MAX, table=t) for t in (True, False))
    found = tabled, plain, Rival(spec, network)
    for module in found:
        module.requires_grad_(False).eval().to(device)
    return found


class Workload:
    """A layer on a random graph of degree 30, edges of 1 to 5 in random directions: ours twice, and the rival."""

    def __init__(self, name: str, edges: int, device: str, index: torch.Tensor | None = None) -> None:
        torch.manual_seed(0)
        nodes = max(edges // DEGREE, 1)
        if index is None:
            receivers = torch.arange(nodes).repeat_interleave(edges // nodes + 1)[:edges]
            index = torch.stack([torch.randint(0, nodes, (edges,)), receivers])
        self.index = index.to(device)
        tabled, plain, self.rival = modules(name, device)
        self.table, graph = tabled.table, Graph(self.index, nodes)
        self.x = torch.randn(nodes, tabled.irreps_x.dim, device=device)
        unit = torch.nn.functional.normalize(torch.randn(edges, 3, device=device))
        self.vec = unit * (1 + 4 * torch.rand(edges, 1, device=device))
        self.layers: dict[str, Layer] = {
            "table": lambda x, vec: tabled(x, vec, self.index, graph=graph),
            "network": lambda x, vec: plain(x, vec, self.index, graph=graph),
            "e3nn": lambda x, vec: self.rival(x, vec, self.index),
        }


def errors(load: Workload, gradients: Step = inner) -> dict[str, float]:
    """Largest relative difference of values and gradients to e3nn's in float64."""
    if reason := load.table.why_not():
        raise SystemExit(f"there is no table: {reason}")
    exact = copy.deepcopy(load.rival).double()
    doubled = [lambda x, vec: exact(x, vec, load.index), load.x.double(), load.vec.double()]
    expected = [*forward(*doubled), *gradients(*doubled)]
    return {
        who: max(
            float((g - e).abs().max() / e.abs().max())
            for g, e in zip([*forward(f, load.x, load.vec), *gradients(f, load.x, load.vec)], expected, strict=True)
        )
        for who, f in load.layers.items()
    }


def measured(call: Callable[[], Any], device: str, graph: bool = False, budget: float = 0.25) -> dict[str, Any]:
    """Times and memory of a call, or why there are none."""
    try:
        found: dict[str, Any] = seconds(call, device, budget)
        if device == "cuda":
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            call()
            found["memory"] = torch.cuda.max_memory_allocated() - before
        if graph:
            found["graph"] = seconds(graphed(call), device)["median"]
        return found
    except torch.OutOfMemoryError:
        return {"skipped": "out of memory"}
    except Exception as reason:
        return {"skipped": f"{type(reason).__name__}: {str(reason)[:120]}"}
    finally:
        if device == "cuda":
            torch.cuda.empty_cache()


def rows(load: Workload, name: str, edges: int, device: str, steps: list[str]) -> list[dict[str, Any]]:
    """All steps of a workload."""
    found = []
    for step in steps:
        row: dict[str, Any] = {"case": name, "edges": edges, "step": step}
        for who, f in load.layers.items():
            call = lambda f=f, step=step: STEPS[step](f, load.x, load.vec)  # noqa: E731
            row[who] = measured(call, device, graph=device == "cuda" and edges <= 10_000)
        found.append(row)
    return found


def table(results: dict[str, Any]) -> str:
    """What was measured, as markdown."""
    lines = [
        f"{results['machine']['device']}, torch {results['machine']['torch']}, float32, radial network and harmonics "
        "on both sides.",
        "",
        "| case | edges | step | table, µs | network, µs | e3nn, µs | e3nn / table | in a CUDA graph, µs "
        "| memory, MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]

    def cells(row: dict[str, Any], key: str, scale: float) -> list[str]:
        return [row[who].get("skipped") or (f"{row[who][key] * scale:.0f}" if key in row[who] else "–") for who in WHO]

    for row in results["rows"]:
        both = all("median" in row[who] for who in ("table", "e3nn"))
        ratio = f"**{row['e3nn']['median'] / row['table']['median']:.1f}×**" if both else "–"
        inside, memory = (" / ".join(cells(row, key, scale)) for key, scale in (("graph", 1e6), ("memory", 1e-6)))
        times = " | ".join(cells(row, "median", 1e6))
        lines.append(
            f"| {row['case']}-conv | {row['edges']} | {row['step']} | {times} | {ratio} | {inside} | {memory} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = options(__doc__, "gpu_radial")
    parser.add_argument("--cases", nargs="+", default=list(CONVOLUTIONS), choices=CONVOLUTIONS)
    parser.add_argument("--edges", nargs="+", type=int, default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--steps", nargs="+", default=list(STEPS), choices=STEPS)
    run = Run(parser, table, errors={}, rows=[])
    given, device, results = run.given, run.device, run.results
    for name in given.cases:
        start = time.perf_counter()
        results["errors"][name] = found = errors(Workload(name, 3000, device))
        said = ", ".join(f"{who} {error:.1e}" for who, error in found.items())
        run.save(f"{name}: errors {said}; compiled in {time.perf_counter() - start:.1f} s")
        if max(found["table"], found["network"]) > 2e-5:
            print(f"{name} is off; it is not timed")
            continue
        for edges in [600] if run.dry else given.edges:
            results["rows"] += rows(Workload(name, edges, device), name, edges, device, given.steps)
            run.save()
    run.end()


if __name__ == "__main__":
    main()
