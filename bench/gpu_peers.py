"""Measures convolutions on a CUDA device against other kernel libraries, those of them that can be imported.

    python bench/gpu_peers.py --out bench/out/gpu_peers.json [--cases mace ...] [--edges ...] [--peers ...] [--dry]

First with the weights of each edge given, then with harmonics and the radial network on both sides: ours reads its
table (whose making is not timed), a peer is given our harmonics and the network's weights. Everyone has one symmetric
graph, sorted by receiver, and its own layout and order of columns; times and memory are taken as in gpu_radial.py.
Who is timed has agreed with float64: value, first and, where weights are given, second derivatives. That is checked in
a process for each case and library, so that all compile at once and one that crashes or hangs takes nobody along.
`--dry` runs everything small on the CPU, cuEquivariance by its `naive` method.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import gpu_radial
import torch
from gpu import CONVOLUTIONS, DEGREE, STEPS, Workload, difference
from gpu_run import Run, options
from peers import PEERS, Peer
from torch import Tensor

from equikern import backends
from equikern.ops import spherical_harmonics

OURS = "equikern"
ALLOWED, CHECKED = 2e-5, 3000  # error, of a case of so many edges
LIMIT, BUDGET = 90, 0.1  # seconds of a check, of a time
Step = Callable[[Callable[..., Tensor], list[Tensor]], Any]


def graph(edges: int) -> Tensor:
    """A random symmetric graph of degree 30, (2, edges), sorted by receiver, then sender."""
    nodes = edges // DEGREE
    half = torch.randint(nodes, (2, edges // 2), generator=torch.Generator().manual_seed(0))
    both = torch.cat([half, half.flip(0)], 1)
    return both[:, (both[1] * nodes + both[0]).argsort()]


class Weights:
    """Convolutions with the weights of each edge given: functions of x, y, w."""

    steps: ClassVar[dict[str, Step]] = STEPS

    def __init__(self, name: str, edges: int, device: str) -> None:
        self.load = load = Workload(name, edges, device, graph(edges))
        self.given, self.tensors = (name, load.edge_index, load.nodes), load.tensors

    def function(self, who: str) -> Callable[..., Tensor]:
        """What is timed, in its own columns."""
        return self.load.ours if who == OURS else PEERS[who](*self.given).convolve

    def error(self, who: str) -> float:
        """Largest relative difference to our float64 reference, to second order."""
        if who == OURS:
            return difference(self.load, self.load.ours)
        peer = PEERS[who](*self.given)
        return difference(self.load, peer.in_our_columns(lambda x, y, w: peer.convolve(x, y, w[:, peer.w])))


class Network:
    """Convolutions with harmonics and the radial network: functions of x, edge_vec."""

    steps: ClassVar[dict[str, Step]] = {
        step: lambda f, tensors, run=gpu_radial.STEPS[step]: run(f, *tensors) for step in ("forward", "forces")
    }

    def __init__(self, name: str, edges: int, device: str) -> None:
        self.load = load = gpu_radial.Workload(name, edges, device, graph(edges))
        self.given, self.tensors = (name, load.index, len(load.x)), [load.x, load.vec]

    def theirs(self, peer: Peer) -> gpu_radial.Layer:
        """The network, its last layer's rows in the peer's order, our harmonics, the peer's convolution."""
        network = copy.deepcopy(self.load.rival.radial)
        network.layers[-1].weight = torch.nn.Parameter(network.layers[-1].weight[peer.w], False)
        degrees = [ir.l for _, ir in self.load.rival.irreps_y]

        def convolve(x: Tensor, vec: Tensor) -> Tensor:
            return peer.convolve(x, spherical_harmonics(degrees, vec, True, "component"), network(vec.norm(dim=1)))

        return convolve

    def function(self, who: str) -> Callable[..., Tensor]:
        """What is timed, in its own columns."""
        return self.load.layers["table"] if who == OURS else self.theirs(PEERS[who](*self.given))

    def error(self, who: str) -> float:
        """Largest relative difference to e3nn's layer in float64, forces included."""
        if who == OURS:
            self.load.layers = {who: self.function(who)}
        else:
            peer = PEERS[who](*self.given)
            self.load.layers = {who: peer.in_our_columns(self.theirs(peer))}
        return gpu_radial.errors(self.load, gpu_radial.forces)[who]


PARTS: dict[str, type[Weights] | type[Network]] = {"weights": Weights, "network": Network}


def error(part: str, name: str, who: str, device: str) -> float:
    """The error of a small case."""
    backends.cuda.library()  # NVRTC: peers are linked to it, and may not find it by themselves
    return PARTS[part](name, CHECKED, device).error(who)


def checked(given: tuple[str, str, str, str]) -> float | str:
    """`error` in a process of its own, or why there is none."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-W", "ignore", "-c", f"import gpu_peers; print(gpu_peers.error{given})"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, env=environment)
    except subprocess.TimeoutExpired:
        return f"nothing in {LIMIT} s"
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1][:160]
    found = float(done.stdout.splitlines()[-1])
    return found if found < ALLOWED else f"computes something else by {found:.1e}"


def rows(part: str, name: str, edges: int, device: str, found: dict[str, Any]) -> list[dict[str, Any]]:
    """Times and memory of every step, of all that were found right; for the others why not."""
    contest = PARTS[part](name, edges, device)
    functions = {who: contest.function(who) for who, error in found.items() if isinstance(error, float)}
    made = []
    for step, run in contest.steps.items():
        row: dict[str, Any] = {"part": part, "case": name, "edges": edges, "step": step}
        for who, error in found.items():
            if who in functions:
                call = lambda f=functions[who], run=run: run(f, contest.tensors)  # noqa: E731
                row[who] = gpu_radial.measured(call, device, budget=BUDGET)
            else:
                row[who] = {"skipped": error}
        made.append(row)
    return made


def tables(results: dict[str, Any]) -> str:
    """What was measured, as markdown."""
    facts, missing = results["machine"], defaultdict(dict)  # reasons, and where
    lines = [f"{facts['device']}, torch {facts['torch']}, float32; µs, in brackets the peak of memory in MB."]
    for part, title in (("weights", "weights given"), ("network", "harmonics and network on both sides")):
        here = [row for row in results["rows"] if row["part"] == part]
        peers = [who for who in PEERS if any(who in row for row in here)]
        heads = "".join(f" {who} | ratio |" for who in peers)
        lines += ["", f"| {title} | edges | step | {OURS} |{heads}", "|---" * (4 + 2 * len(peers)) + "|"]
        for row in here:
            cells = [f"{row['case']}-conv", str(row["edges"]), row["step"], _cell(row[OURS])]
            for who in peers:
                cells += [_cell(row[who]), _ratio(row[who], row[OURS])]
            lines.append(f"| {' | '.join(cells)} |")
        for row in here:
            for who in (OURS, *peers):
                if "skipped" in row[who]:
                    missing[f"{who}: {row[who]['skipped']}"][f"{row['case']} {row['edges']}, {title}"] = None
    return "\n".join([*lines, "", *(f"- {reason} ({'; '.join(where)})" for reason, where in missing.items())])


def _cell(time: dict[str, Any]) -> str:
    if "skipped" in time:
        return "–"
    memory = f" ({time['memory'] * 1e-6:.0f})" if "memory" in time else ""
    return f"{time['median'] * 1e6:.0f}{memory}"


def _ratio(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    both = "median" in theirs and "median" in ours
    return f"**{theirs['median'] / ours['median']:.2f}×**" if both else "–"


def main() -> None:
    parser = options(__doc__, "gpu_peers")
    parser.add_argument("--cases", nargs="+", default=list(CONVOLUTIONS), choices=CONVOLUTIONS)
    parser.add_argument("--edges", nargs="+", type=int, default=[100_000, 1_000_000])
    parser.add_argument("--network-edges", nargs="*", type=int, default=[100_000])
    parser.add_argument("--peers", nargs="*", default=list(PEERS)[:2], choices=list(PEERS))
    run = Run(parser, tables, errors=[], rows=[])
    given, device, results = run.given, run.device, run.results
    sizes = {"weights": given.edges, "network": given.network_edges}
    if run.dry:
        sizes = {"weights": [300], "network": [600]}
    os.environ.setdefault("CUEQUIVARIANCE_OPS_NVRTC_CACHE_DIR", tempfile.mkdtemp())
    start = time.perf_counter()
    asked = [(part, name) for part in PARTS if sizes[part] for name in given.cases]
    everyone = (OURS, *given.peers)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        answers = pool.map(checked, [(*contest, who, device) for contest in asked for who in everyone])
        found = {contest: dict(zip(everyone, answers, strict=False)) for contest in asked}
    results["errors"] = [{"part": part, "case": name, **errors} for (part, name), errors in found.items()]
    run.save(f"checked in {time.perf_counter() - start:.0f} s: {json.dumps(results['errors'], indent=1)}")
    backends.cuda.library()
    for edges in sorted({*sizes["weights"], *sizes["network"]}):
        for part, name in asked:
            if edges in sizes[part]:
                results["rows"] += rows(part, name, edges, device, found[part, name])
                run.save(f"{part} {name} {edges}: {time.perf_counter() - start:.0f} s")
    run.end()


if __name__ == "__main__":
    main()
