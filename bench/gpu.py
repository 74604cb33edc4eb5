"""Measures on a CUDA device: bandwidth and float32 rate, then convolutions and messages against e3nn or plain torch.

    python bench/gpu.py --out bench/out/gpu.json [--cases mace painn ...] [--edges 10000 ...] [--dry]

Times are of CUDA events, median of several runs, inputs on the device, the Graph (its plans) made before; the first
calls, which compile, are not counted. A case is timed after its results, to second order, agree with the float64
reference. `--dry` runs everything small on the CPU, to see that it runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import baselines
import torch
from gpu_run import Run, graphed, options, seconds

import equikern
from equikern.graph import Graph
from equikern.nn import Convolution
from equikern.ops import evaluate, spherical_harmonics
from equikern.program import Program, painn_message, schnet_message
from equikern.testing import get

DEGREE = 30
CONVOLUTIONS = ("mace", "nequip", "sevennet")
CASES = (*CONVOLUTIONS, "painn", "schnet")
ELEMENTWISE = ("elementwise-128", "allegro-64")  # for `tune_cuda.py`; `gpu_modes.py` has their rival
INPUTS, ALL = [0, 1, 2], [0, 1, 2, 3]
Step = Callable[[Callable[..., Any], list[torch.Tensor]], Any]


def forward(f: Callable[..., Any], tensors: list[torch.Tensor]) -> Any:
    """Without gradients."""
    with torch.no_grad():
        return f(*tensors)


def forward_backward(f: Callable[..., Any], tensors: list[torch.Tensor]) -> Any:
    """A value and its gradient with respect to every input."""
    leaves = [t.detach().requires_grad_() for t in tensors]
    return torch.autograd.grad(f(*leaves).square().sum(), leaves)


def force_training(f: Callable[..., Any], tensors: list[torch.Tensor]) -> Any:
    """A first derivative that is itself differentiated, as in `baselines.force_training`."""
    leaves = [t.detach().requires_grad_() for t in tensors]
    energy = torch.tanh(f(*leaves)).sum()
    first = torch.autograd.grad(energy, leaves, create_graph=True)
    return torch.autograd.grad(energy + sum(t.square().sum() for t in first), leaves)


STEPS: dict[str, Step] = {"forward": forward, "forward+backward": forward_backward, "force training": force_training}


def program_of(name: str) -> Program:
    """The program of a case."""
    if name in CONVOLUTIONS:
        return Convolution(*baselines.case(name)).program
    if name in ELEMENTWISE:
        return get(name).program
    return {"painn": painn_message, "schnet": schnet_message}[name](128)


class Workload:
    """A program on a random graph of degree 30: tensors x y w, ours and its rival as functions of them."""

    def __init__(self, name: str, edges: int, device: str, edge_index: torch.Tensor | None = None) -> None:
        torch.manual_seed(0)
        self.name, self.edges, self.nodes = name, edges, max(edges // DEGREE, 1)
        self.program = program_of(name)
        if edge_index is None:
            receivers = torch.arange(self.nodes).repeat_interleave(edges // self.nodes + 1)[:edges]
            edge_index = torch.stack([torch.randint(0, self.nodes, (edges,)), receivers])
        self.edge_index = edge_index.to(device)
        self.tensors = [torch.randn(self.rows[o.row], o.dim, device=device) for o in self.program.operands[:3]]
        if name in ("painn", "schnet"):
            self.tensors[1][:, 0] = 1.0
        if name == "schnet":  # y is the constant 1
            self.one = self.tensors.pop(1)
        self.graph = Graph(self.edge_index, self.nodes)

    @property
    def rows(self) -> dict[str, int]:
        """Of each kind of row."""
        return {"edge": self.edges, "shared": 1, "sender": self.nodes, "receiver": self.nodes}

    @property
    def operands(self) -> list[torch.Tensor]:
        """x, y, w."""
        return [self.tensors[0], self.one, self.tensors[1]] if self.name == "schnet" else self.tensors

    def ours(self, *tensors: torch.Tensor) -> torch.Tensor:
        """The program, by the backend in force."""
        x, *y, w = tensors
        return evaluate(self.program, (x, *(y or [self.one.to(x)]), w), self.graph.index, self.nodes)

    def rival(self) -> tuple[str, Callable[..., torch.Tensor]]:
        """Its name, and the same function of x, y, w: e3nn, or plain torch for the messages of SchNet and PaiNN."""
        sender, receiver = self.edge_index
        if self.name in CONVOLUTIONS:
            theirs = baselines.E3nnConv(*baselines.case(self.name)).to(self.edge_index.device)
            return "e3nn", lambda x, y, w: theirs(x, y, w, self.edge_index)
        c = self.program.operands[0].irreps[0].mul

        def schnet(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
            return x.new_zeros(x.shape).index_add(0, receiver, x[sender] * w)

        def painn(x: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
            s, r, v = x[sender].split((c, c, 3 * c), 1)
            ws, wr, wv = w.split(c, 1)
            scalars = x.new_zeros(x.shape[0], c).index_add(0, receiver, s * ws)
            m = (r * wr)[:, None] * y[:, 1:, None] + v.unflatten(1, (3, c)) * wv[:, None]
            vectors = x.new_zeros(x.shape[0], 3, c).index_add(0, receiver, m)
            return torch.cat([scalars, vectors.flatten(1)], 1)

        return "torch", schnet if self.name == "schnet" else painn


def error(name: str, device: str, edges: int = 900) -> float:
    """Largest relative difference to the float64 reference: value, gradients, gradients of the gradients."""
    small = Workload(name, edges, device)
    return difference(small, small.ours)


def difference(load: Workload, f: Callable[..., torch.Tensor]) -> float:
    """The same of a function that should be ours."""
    got = [run(f, load.tensors) for run in STEPS.values()]
    with equikern.backend("reference"):
        doubled = [t.double() for t in load.tensors]
        expected = [run(load.ours, doubled) for run in STEPS.values()]
    pairs = [(got[0], expected[0]), *zip(got[1], expected[1], strict=True), *zip(got[2], expected[2], strict=True)]
    return max(float((g - e).abs().max() / e.abs().max()) for g, e in pairs)


def contract(load: Workload, open: list[int], second: bool = False) -> Callable[[], Any]:
    """The op itself, one sweep: z, or the gradients of all inputs, or all of the double backward."""
    program, backend = (
        load.program,
        equikern.backends.select(load.program.text, str(load.edge_index.device.type), torch.float32),
    )
    g = torch.randn(load.nodes, program.dims[3], device=load.edge_index.device)
    operands = [*load.operands, g]
    if second:
        program = program.along(INPUTS)
        operands += [torch.randn_like(t) for t in load.operands]
    rows = [load.rows[program.rows[s]] for s in open]
    return lambda: torch.ops.equikern.contract(program.text, backend, operands, load.graph.index, rows, open)


def work(load: Workload, open: list[int], second: bool = False) -> dict[str, int]:
    """Operations and bytes that a sweep must do and move at least."""
    program = load.program.along(INPUTS) if second else load.program
    return {"flops": program.flops(load.edges, open), "bytes": program.bytes(load.rows, 4, open)}


def kernels(load: Workload, facts: dict[str, Any], device: str) -> list[dict[str, Any]]:
    """The three sweeps, each against its roofline."""
    found = []
    for name, open, second in (("forward", [3], False), ("backward", INPUTS, False), ("double backward", ALL, True)):
        try:
            time = seconds(contract(load, open, second), device)
        except torch.OutOfMemoryError:
            found.append({"case": load.name, "edges": load.edges, "kernel": name, "skipped": "out of memory"})
            continue
        row = {"case": load.name, "edges": load.edges, "kernel": name, **time, **work(load, open, second)}
        row["floor"] = max(row["bytes"] / facts["bandwidth"], row["flops"] / facts["float32"])
        row["roofline"] = row["floor"] / row["median"]
        found.append(row)
    return found


def steps(load: Workload, device: str, graphs: bool) -> list[dict[str, Any]]:
    """Ours and the rival through autograd."""
    found = []
    rival_name, rival = load.rival()
    if load.edges <= 10_000:
        a, b = forward(load.ours, load.tensors), forward(rival, load.tensors)
        if not bool((a - b).abs().max() <= 1e-4 * b.abs().max()):
            raise SystemExit(f"{load.name}: {rival_name} computes something else; nothing is timed")
    for name, run in STEPS.items():
        row: dict[str, Any] = {"case": load.name, "edges": load.edges, "step": name, "rival": rival_name}
        for who, f in (("ours", load.ours), ("theirs", rival)):
            for mode in ("", " graph") if graphs else ("",):
                call = lambda f=f, run=run: run(f, load.tensors)  # noqa: E731
                try:
                    row[who + mode] = seconds(graphed(call) if mode else call, device)
                except torch.OutOfMemoryError:
                    row[who + mode] = {"skipped": "out of memory"}
                except Exception as reason:
                    row[who + mode] = {"skipped": f"{type(reason).__name__}: {str(reason)[:120]}"}
                if device == "cuda":
                    torch.cuda.empty_cache()
        found.append(row)
    return found


def harmonics(edges: int, device: str) -> list[dict[str, Any]]:
    """Spherical harmonics up to degree 3: value, gradient, double gradient; ours and e3nn's."""
    from e3nn import o3

    torch.manual_seed(0)
    vec = torch.randn(edges, 3, device=device)

    def ours(v: torch.Tensor) -> torch.Tensor:
        return spherical_harmonics([0, 1, 2, 3], v, True, "component")

    def theirs(v: torch.Tensor) -> torch.Tensor:
        return o3.spherical_harmonics([0, 1, 2, 3], v, True, "component")

    found = []
    for name, run in STEPS.items():
        row: dict[str, Any] = {"case": "harmonics", "edges": edges, "step": name, "rival": "e3nn"}
        for who, f in (("ours", ours), ("theirs", theirs)):
            row[who] = seconds(lambda f=f, run=run: run(f, [vec]), device)
        found.append(row)
    return found


def _time(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return "–"
    return cell.get("skipped") or f"{cell['median'] * 1e6:.0f}"


def tables(results: dict[str, Any]) -> str:
    """What was measured, as markdown."""
    facts = results["machine"]
    name = {n: f"{n}-conv" for n in CONVOLUTIONS}
    lines = [
        f"{facts['device']}, torch {facts['torch']}, float32; {facts['bandwidth'] / 1e9:.0f} GB/s copied (read and "
        f"written), {facts['float32'] / 1e12:.1f} TFLOP/s in a float32 matrix product, both measured in the same run.",
        "",
        "| case | edges | sweep | µs | share of the roofline |",
        "|---|---|---|---|---|",
    ]
    for row in results["kernels"]:
        share = "" if "skipped" in row else f"{row['roofline']:.0%}"
        case = name.get(row["case"], row["case"])
        lines.append(f"| {case} | {row['edges']} | {row['kernel']} | {_time(row)} | {share} |")
    lines += [
        "",
        "| case | edges | step | equikern, µs | rival, µs | ratio | in a CUDA graph: ours, µs | rival, µs | ratio |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in results["steps"]:
        cells = []
        for mode in ("", " graph"):
            ours, theirs = row.get("ours" + mode), row.get("theirs" + mode)
            both = ours and theirs and "median" in ours and "median" in theirs
            ratio = f"**{theirs['median'] / ours['median']:.1f}×**" if both else "–"
            cells += [_time(ours), _time(theirs), ratio]
        case = name.get(row["case"], row["case"])
        lines.append(
            f"| {case} | {row['edges']} | {row['step']} | {cells[0]} | {row['rival']} {' | '.join(cells[1:])} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = options(__doc__, "gpu")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--edges", nargs="+", type=int, default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--no-steps", action="store_true", help="only the sweeps")
    run = Run(parser, tables, errors={}, kernels=[], steps=[])
    given, device, results = run.given, run.device, run.results
    sizes = [300] if run.dry else given.edges
    for name in given.cases:
        start = time.perf_counter()
        results["errors"][name] = found = error(name, device)
        run.save(f"{name}: error {found:.1e}, compiled in {time.perf_counter() - start:.1f} s")
        if found > 1e-5:
            print(f"{name} disagrees with the reference; it is not timed")
            continue
        for edges in sizes:
            load = Workload(name, edges, device)
            results["kernels"] += kernels(load, results["machine"], device)
            if not given.no_steps:
                results["steps"] += steps(load, device, graphs=device == "cuda" and edges <= 10_000)
            run.save()
    if not given.no_steps:
        for edges in sizes:
            results["steps"] += harmonics(edges, device)
    run.end()


if __name__ == "__main__":
    main()
