"""Symmetric contractions on a CUDA device: each kernel against its bandwidth, steps against einsums as MACE has them.

    python bench/gpu_symmetric.py --out bench/out/gpu_symmetric.json [--nodes 1000 30000] [--outputs 0e 0e+1o] [--tune]

128 channels, l <= 3 in, correlation 3, four species at random; float32. The rival is MACE's contraction (Batatia et al.
2022, equations 8 to 11, mace/modules/symmetric_contraction.py) in plain torch, with coupling tensors of our basis, so
that both are the same function of x and weights; it agrees before the clock starts. `--tune` times the kernels for
other numbers of nodes a thread. `--dry` runs everything small on the CPU.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from gpu import STEPS, forward
from gpu_run import Run, graphed, options, seconds
from torch import Tensor

from equikern import backends
from equikern.backends.cuda import symmetric_source as kernels
from equikern.ops.symmetric_contraction import symmetric_contraction
from equikern.program.symmetric import Symmetric, basis, symmetric

SPECIES = 4
ENTRIES = ("0e", "1o", "2e", "3o")


class Einsums(torch.nn.Module):
    """z of one irrep: the weighted coupling tensor of the highest degree meets x, then the next lower one is added."""

    def __init__(self, program: Symmetric, entry: int) -> None:
        super().__init__()
        found = basis(program.text)
        first = sum(ir.dim for _, ir in program.irreps_z[:entry])
        dim, size = program.irreps_z[entry].ir.dim, program.components
        self.degrees: list[tuple[int, Tensor]] = []  # polynomials' numbers, and their tensors
        for block, (owner, degree) in enumerate(found.blocks):
            if owner != entry:
                continue
            numbers = torch.from_numpy(found.block == block).nonzero().flatten()
            tensor = torch.zeros(dim, *(size,) * degree, len(numbers), dtype=torch.float64)
            matrix = torch.tensor(found.matrix)[:, numbers]
            for row, (k, monomial) in enumerate(program.terms):
                if first <= k < first + dim and len(monomial) == degree:
                    places = set(itertools.permutations(monomial))
                    for place in places:
                        tensor[(k - first, *place)] = matrix[row] / len(places)
            self.degrees.append((degree, numbers, tensor.float()))
        self.degrees.sort(reverse=True, key=lambda found: found[0])

    def to(self, device: str) -> Einsums:
        """Its tensors on a device."""
        self.degrees = [(degree, numbers.to(device), tensor.to(device)) for degree, numbers, tensor in self.degrees]
        return self

    def forward(self, x: Tensor, weight: Tensor, attributes: Tensor) -> Tensor:
        """x (N, C, D), weight (species, polynomials, C), attributes (N, species) one-hot -> (N, C, 2l+1)."""
        (_, numbers, tensor), *lower = self.degrees
        z = torch.einsum("...ik,ekc,bci,be->bc...", tensor, weight[:, numbers], x, attributes)
        for _, numbers, tensor in lower:
            z = z + torch.einsum("...k,ekc,be->bc...", tensor, weight[:, numbers], attributes)
            z = torch.einsum("bc...i,bci->bc...", z, x)
        return z


class Workload:
    """A contraction of x (N, C, D) with weights of polynomials by species: ours and the rival."""

    def __init__(self, entries: list[str], nodes: int, device: str, channels: int = 128) -> None:
        torch.manual_seed(0)
        irreps = [[f"{channels}x{entry}" for entry in some] for some in (ENTRIES, entries)]
        self.program = symmetric("+".join(irreps[0]), "+".join(irreps[1]), 3, layout_x="channels")
        self.nodes, self.device = nodes, device
        self.matrix = torch.tensor(basis(self.program.text).matrix, dtype=torch.float32, device=device)
        x = torch.randn(nodes, channels, self.program.components, device=device)
        weight = torch.randn(SPECIES, self.matrix.shape[1], channels, device=device)
        self.tensors = [x, weight]
        self.species = torch.randint(SPECIES, (nodes,), device=device)
        self.attributes = torch.eye(SPECIES, device=device)[self.species]
        self.einsums = [Einsums(self.program, entry).to(device) for entry in range(len(entries))]

    def ours(self, x: Tensor, weight: Tensor) -> Tensor:
        """(N, dim of z)."""
        return symmetric_contraction(self.program, x.flatten(1), self.matrix.to(x) @ weight, self.species)

    def theirs(self, x: Tensor, weight: Tensor) -> Tensor:
        """The same by einsums."""
        return torch.cat([f(x, weight, self.attributes).flatten(1) for f in self.einsums], 1)

    def opening(self, slots: list[int], order: int) -> Callable[[], Any]:
        """The op itself: slots of the contraction, or of its derivative along x."""
        program = self.program.along() if order else self.program
        x, weight = self.tensors[0].flatten(1), self.matrix @ self.tensors[1]
        z = torch.randn(self.nodes, program.irreps_z.dim, device=self.device)
        operands = [weight, z, x, torch.randn_like(x)][: 3 + order]
        name = backends.select_symmetric(self.device, torch.float32)
        op, plan = torch.ops.equikern.symmetric_contraction, getattr(backends.symmetric[name], "plan", None)
        kinds = [self.species] if plan is None else [self.species, *plan(self.species)]
        return lambda: op(program.text, name, kinds, SPECIES, operands, slots)

    def bytes(self, slots: list[int], order: int) -> int:
        """What an opening must read and write at least."""
        x, z = self.tensors[0].numel(), self.nodes * self.program.irreps_z.dim
        reads = x * (1 + order) + z * any(slot != 1 for slot in slots)
        return 4 * (reads + sum({0: 0, 1: z}.get(slot, x) for slot in slots))


OPENINGS = {
    "forward": ([1], 0),
    "gradient of x": ([2], 0),
    "gradient of w": ([0], 0),
    "double backward: z, x": ([1, 2], 1),
    "double backward: w": ([0], 1),
}


def openings(load: Workload, facts: dict[str, Any]) -> list[dict[str, Any]]:
    """The kernels, the nodes sorted before."""
    found = []
    for name, (slots, order) in OPENINGS.items():
        row = {"case": str(load.program), "nodes": load.nodes, "kernel": name}
        try:
            row |= seconds(load.opening(slots, order), load.device)
        except torch.OutOfMemoryError:
            row["skipped"] = "out of memory"
        row["floor"] = load.bytes(slots, order) / facts["bandwidth"]
        found.append(row)
    return found


def tuned(load: Workload, facts: dict[str, Any]) -> list[dict[str, Any]]:
    """The openings of z and x for numbers of nodes a thread."""
    found, before = [], dict(kernels.NODES)
    for nodes in (1, 2, 4):
        kernels.NODES.update({("float", 0): nodes, ("float", 1): min(nodes, 2)})
        kernels.node_source.cache_clear()
        found += [
            row | {"nodes of a thread": nodes} for row in openings(load, facts) if not row["kernel"].endswith("w")
        ]
    kernels.NODES.clear(), kernels.NODES.update(before)
    kernels.node_source.cache_clear()
    return found


def steps(load: Workload) -> list[dict[str, Any]]:
    """Ours and the rival through autograd, and in a CUDA graph where there are few nodes."""
    if load.nodes <= 1000:
        ours, theirs = forward(load.ours, load.tensors), forward(load.theirs, load.tensors)
        error = float((ours - theirs).abs().max() / theirs.abs().max())
        if not error < 1e-4:
            raise SystemExit(f"the einsums compute something else, by {error:.1e}; nothing is timed")
    found = []
    for name, run in STEPS.items():
        row: dict[str, Any] = {"case": str(load.program), "nodes": load.nodes, "step": name}
        for who, f in (("ours", load.ours), ("theirs", load.theirs)):
            for mode in ("", " graph") if load.device == "cuda" and load.nodes <= 1000 else ("",):
                call = lambda f=f, run=run: run(f, load.tensors)  # noqa: E731
                try:
                    row[who + mode] = seconds(graphed(call) if mode else call, load.device)
                except torch.OutOfMemoryError:
                    row[who + mode] = {"skipped": "out of memory"}
                except Exception as reason:
                    row[who + mode] = {"skipped": f"{type(reason).__name__}: {str(reason)[:120]}"}
                if load.device == "cuda":
                    torch.cuda.empty_cache()
        found.append(row)
    return found


def _time(cell: dict[str, Any] | None) -> str:
    return "–" if cell is None else cell.get("skipped") or f"{cell['median'] * 1e6:.0f}"


def tables(results: dict[str, Any]) -> str:
    """What was measured, as markdown."""
    outputs = {row["case"]: row["case"].split(" z ")[1].split()[1] for row in results["kernels"]}
    lines = ["| output | nodes | kernel | nodes a thread | µs | share of the bandwidth |", "|" + "---|" * 6]
    for row in results["kernels"] + results["tuned"]:
        share = "–" if "skipped" in row else f"{row['floor'] / row['median']:.0%}"
        head = f"| {outputs[row['case']]} | {row['nodes']} | {row['kernel']} | {row.get('nodes of a thread', '')} "
        lines.append(head + f"| {_time(row)} | {share} |")
    lines += [
        "",
        "| output | nodes | step | equikern, µs | einsums, µs | ratio | in a CUDA graph: ours, µs | einsums, µs |",
    ]
    lines.append("|" + "---|" * 8)
    for row in results["steps"]:
        both = all("median" in row[who] for who in ("ours", "theirs"))
        ratio = f"**{row['theirs']['median'] / row['ours']['median']:.1f}×**" if both else "–"
        cells = [_time(row.get(who)) for who in ("ours", "theirs", "ours graph", "theirs graph")]
        head = f"| {outputs[row['case']]} | {row['nodes']} | {row['step']} "
        lines.append(head + f"| {cells[0]} | {cells[1]} | {ratio} | {cells[2]} | {cells[3]} |")
    return "\n".join(lines)


def main() -> None:
    parser = options(__doc__, "gpu_symmetric")
    parser.add_argument("--nodes", nargs="+", type=int, default=[1000, 30_000])
    parser.add_argument("--outputs", nargs="+", default=["0e", "0e+1o"])
    parser.add_argument("--tune", action="store_true", help="kernels for other numbers of nodes a thread too")
    run = Run(parser, tables, kernels=[], tuned=[], steps=[])
    given, results = run.given, run.results
    for entries in given.outputs:
        for nodes in [9] if run.dry else given.nodes:
            load = Workload(entries.split("+"), nodes, run.device, channels=4 if run.dry else 128)
            results["kernels"] += openings(load, results["machine"])
            if given.tune:
                results["tuned"] += tuned(load, results["machine"])
            results["steps"] += steps(load)
            run.save(f"{entries}, {nodes} nodes: done")
    run.end()


if __name__ == "__main__":
    main()
