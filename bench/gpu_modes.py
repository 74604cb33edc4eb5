"""Measures linear maps and products that mix channels on a CUDA device, against e3nn and our reference.

    python bench/gpu_modes.py --out bench/out/gpu_modes.json [--cases linear ...] [--dry]

Timed as in `gpu.py`, after value and gradients agree with e3nn's; the reference is what these ran as before. Rows are
10 000 nodes, or edges on nodes of degree 30. `--dry` runs everything small on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import e3nn.o3
import torch
from gpu import DEGREE, STEPS
from gpu_run import Run, graphed, options, seconds
from torch import Tensor

import equikern
from equikern import o3
from equikern.nn import MixedConvolution, SpeciesLinear
from equikern.program import Irreps

WIDE, SPECIES = "128x0e+128x1o", 10
DIFFDOCK = ("48x0e+10x1o+10x1e+48x0o", "0e+1o+2e", "48x0e+10x1o+10x1e+48x0o")
SEGNN = ("64x0e+64x1o", "0e+1o", "64x0e+64x1o")
PAIRS, FEW = "64x0e+64x1o", "8x0e+8x1o"
FEATURES = 144  # of an edge in DiffDock's radial network
Pair = tuple[Callable[..., Tensor], Callable[..., Tensor], list[Tensor]]


def linear(rows: int) -> Pair:
    """MACE's linear map of nodes."""
    theirs, ours = e3nn.o3.Linear(WIDE, WIDE), o3.Linear(WIDE, WIDE)
    with torch.no_grad():
        ours.weight.copy_(theirs.weight)
    return ours, theirs, [torch.randn(rows, Irreps(WIDE).dim)]


def species(rows: int) -> Pair:
    """A map by species: e3nn's product with one-hot rows of atoms."""
    theirs = e3nn.o3.FullyConnectedTensorProduct(WIDE, f"{SPECIES}x0e", WIDE)
    ours = SpeciesLinear(WIDE, WIDE, SPECIES)
    muls = [(m1, SPECIES, m1) for m1, _ in Irreps(WIDE)]
    parts = theirs.weight.detach().split([a * b * c for a, b, c in muls])
    with torch.no_grad():
        ours.weight.copy_(
            torch.cat([p.view(m).transpose(0, 1).flatten(1) for p, m in zip(parts, muls, strict=True)], 1)
        )
    kinds = torch.randint(SPECIES, (rows,))
    attributes = torch.nn.functional.one_hot(kinds, SPECIES).to(torch.get_default_dtype())
    ours.register_buffer("kinds", kinds)
    theirs.register_buffer("attributes", attributes)
    return ours, theirs, [torch.randn(rows, Irreps(WIDE).dim)]


def shared(rows: int) -> Pair:
    """SEGNN's product of edges: shared weights."""
    options = {"shared_weights": True, "internal_weights": False}
    return products(SEGNN, rows, options, ())


def by_row(rows: int) -> Pair:
    """TFN's and DiffDock's product of edges: weights of each edge."""
    options = {"shared_weights": False, "internal_weights": False}
    return products(DIFFDOCK, rows, options, (rows,))


def products(irreps: tuple[str, str, str], rows: int, options: dict[str, bool], leading: tuple[int, ...]) -> Pair:
    """Fully connected products and x, y, w."""
    theirs = e3nn.o3.FullyConnectedTensorProduct(*irreps, **options)
    ours = o3.FullyConnectedTensorProduct(*irreps, **options)
    x, y = (torch.randn(rows, Irreps(i).dim) for i in irreps[:2])
    return ours, theirs, [x, y, torch.randn(*leading, ours.weight_numel)]


def elementwise(rows: int) -> Pair:
    """Channel times channel, `uuu`."""
    theirs, ours = (o.ElementwiseTensorProduct(PAIRS, PAIRS) for o in (e3nn.o3, o3))
    return ours, theirs, [torch.randn(rows, Irreps(PAIRS).dim) for _ in range(2)]


def full(rows: int) -> Pair:
    """Every channel times every channel, `uvuv`."""
    theirs, ours = (o.FullTensorProduct(FEW, FEW) for o in (e3nn.o3, o3))
    return ours, theirs, [torch.randn(rows, Irreps(FEW).dim) for _ in range(2)]


def messages(rows: int) -> Pair:
    """DiffDock's messages, weights linear in features of the edge."""
    ours = MixedConvolution(*DIFFDOCK, FEATURES)
    theirs = e3nn.o3.FullyConnectedTensorProduct(*DIFFDOCK, shared_weights=False, internal_weights=False)
    nodes = max(rows // DEGREE, 1)
    index = torch.stack([torch.randint(nodes, (rows,)), torch.arange(rows) * nodes // rows])
    for module in (ours, theirs):
        module.register_buffer("index", index)
    sizes = [(nodes, ours.irreps_x.dim), (rows, ours.irreps_y.dim), (rows, FEATURES), (FEATURES, ours.weight_numel)]
    *tensors, weight = (torch.randn(*size) for size in sizes)
    return ours, theirs, [*tensors, weight * FEATURES**-0.5]


def calls(name: str, ours: Any, theirs: Any) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """Both as functions of the tensors."""
    if name == "species":
        return lambda x: ours(x, ours.kinds), lambda x: theirs(x, theirs.attributes)
    if name == "messages":
        graph = equikern.graph.Graph(ours.index, int(ours.index.max()) + 1)

        def weighed(x: Tensor, y: Tensor, h: Tensor, w: Tensor) -> Tensor:
            sender, receiver = theirs.index
            z = theirs(x[sender], y, h @ w)
            return z.new_zeros(x.shape[0], z.shape[1]).index_add(0, receiver, z)

        return lambda x, y, h, w: ours(x, y, h, w, ours.index, graph), weighed
    return ours, theirs


CASES: dict[str, tuple[Callable[[int], Pair], int]] = {
    "linear": (linear, 10_000),
    "species": (species, 10_000),
    "shared": (shared, 100_000),
    "by row": (by_row, 20_000),
    "elementwise": (elementwise, 20_000),
    "full": (full, 20_000),
    "messages": (messages, 20_000),
}


def measured(name: str, device: str, dry: bool) -> list[dict[str, Any]]:
    """Each step: ours, e3nn's, our reference's, and both in a CUDA graph."""
    torch.manual_seed(0)
    make, rows = CASES[name]
    rows = 300 if dry else rows
    ours, theirs, tensors = make(rows)
    ours, theirs = ours.to(device), theirs.to(device)
    tensors = [t.to(device) for t in tensors]
    f, rival = calls(name, ours, theirs)
    found = []
    for step, run in STEPS.items():
        got, expected = run(f, tensors), run(rival, tensors)
        pairs = zip([got] if step == "forward" else got, [expected] if step == "forward" else expected, strict=True)
        error = max(float((g - e).norm() / e.norm()) for g, e in pairs)
        row: dict[str, Any] = {"case": name, "rows": rows, "step": step, "rival": "e3nn", "error": error}
        found.append(row)
        if error > 2e-5:
            row["ours"] = {"skipped": f"e3nn computes something else by {error:.1e}"}
            continue
        modes: list[tuple[str, Callable[..., Tensor], str, bool]] = [
            ("ours", f, "auto", False),
            ("theirs", rival, "auto", False),
            ("reference", f, "reference", False),
        ]
        if device == "cuda":
            modes += [("ours graph", f, "auto", True), ("theirs graph", rival, "auto", True)]
        for who, call, backend, graph in modes:
            try:
                with equikern.backend(backend):
                    bound = lambda call=call, run=run: run(call, tensors)  # noqa: E731
                    row[who] = seconds(graphed(bound) if graph else bound, device)
            except Exception as reason:
                row[who] = {"skipped": f"{type(reason).__name__}: {str(reason)[:120]}"}
            if device == "cuda":
                torch.cuda.empty_cache()
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            run(f, tensors)
            row["memory"] = torch.cuda.max_memory_allocated() - before
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """What was measured, as markdown."""

    def cell(row: dict[str, Any], who: str) -> str:
        time = row.get(who)
        return "–" if time is None else time.get("skipped") or f"{time['median'] * 1e6:.0f}"

    def ratio(row: dict[str, Any], mode: str) -> str:
        a, b = row.get("ours" + mode, {}), row.get("theirs" + mode, {})
        return f"**{b['median'] / a['median']:.1f}×**" if "median" in a and "median" in b else "–"

    lines = [
        "| case | rows | step | equikern, µs | e3nn, µs | ratio | in a CUDA graph: ours, µs | e3nn, µs | ratio | "
        "reference, µs |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [row["case"], str(row["rows"]), row["step"]]
        for mode in ("", " graph"):
            cells += [cell(row, "ours" + mode), cell(row, "theirs" + mode), ratio(row, mode)]
        lines.append("| " + " | ".join([*cells, cell(row, "reference")]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = options(__doc__, "gpu_modes")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    run = Run(parser, lambda results: table(results["steps"]), steps=[])
    for name in run.given.cases:
        run.results["steps"] += measured(name, run.device, run.dry)
        run.save(f"{name}: done")
    run.end()


if __name__ == "__main__":
    main()
