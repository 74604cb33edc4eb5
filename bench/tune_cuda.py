"""Times the CUDA C++ kernels under a dozen layouts on the device, against those of Triton: what `layout.py` decides.

    python bench/tune_cuda.py [--cases mace ...] [--edges 300000] [--out bench/out/tune_cuda.json] [--no-triton] [--dry]

Sweeps alone, as in `gpu.py`: z, the gradients of all inputs, all of the double backward. The weights of mace-table,
nequip-table and sevennet-table come from a table: their sweeps open its factors. elementwise-128 and allegro-64 are
products of equal channels. Kernels are compiled by as many
processes as there are cores, then timed one by one; each result is compared with that of the layout in use (float32, in
units of its largest element). `--dry` compiles two layouts of each case and times nothing: no device is needed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import gpu
import gpu_run
import torch

from equikern.backends.cuda import nvrtc
from equikern.backends.cuda.launch import maker
from equikern.backends.cuda.layout import Tuning
from equikern.backends.gpu import launch
from equikern.backends.gpu.sweep import HB, HW, HX, HY, B
from equikern.backends.triton.launch import TritonKernels
from equikern.errors import BackendError
from equikern.ops.spline import OFFSETS
from equikern.program.program import W, X, Y, Z

CASES, TABLE = ("mace", "nequip", "sevennet", "painn"), "-table"
TABLES = tuple(case + TABLE for case in gpu.CONVOLUTIONS)
# Each kind of kernel has layouts of its own: what follows a form's name in the ranking, and its cases.
KINDS = {"": CASES, ", element-wise": gpu.ELEMENTWISE, ", table": TABLES}
EVERY = tuple(case for cases in KINDS.values() for case in cases)
KNOTS = 300  # rows of a table
FORMS = {"forward": [Z], "backward": [X, Y, W], "double backward": [X, Y, W, Z]}


def staged(values: int, registers: int, stages: int, **more: Any) -> Tuning:
    """What is read ahead waits in the memory of the block."""
    return Tuning(values, registers, ahead=0, stages=stages, **more)


# values (so, channels a lane), registers (so, warps on a multiprocessor), warps of a block, edges read ahead, values of
# a unit, whether caches keep what is read and written once, stages
TUNINGS = {
    "forward": [
        *(staged(v, r, n) for v, r in ((1, 64), (1, 80), (128, 96), (128, 128), (168, 128)) for n in (2, 3, 4)),
        *(staged(255, 255, n) for n in (2, 3)),
        staged(168, 128, 6),
        staged(168, 128, 3, warps=4),
        staged(168, 128, 3, keep=True),
        *(Tuning(168, 168, ahead=n) for n in (0, 1)),
    ],
    "backward": [
        *(staged(v, r, n) for v, r in ((1, 80), (1, 96), (150, 128), (168, 168), (183, 168)) for n in (2, 3, 4)),
        *(staged(255, 255, n) for n in (2, 3)),
        staged(168, 168, 3, warps=4),
        staged(168, 168, 3, keep=True),
        *(Tuning(183, 168, ahead=n) for n in (0, 1)),
    ],
    "double backward": [
        *(staged(v, r, n, widest=80) for v, r in ((1, 128), (1, 168), (183, 168), (220, 255)) for n in (2, 3, 4)),
        *(staged(255, 255, n, widest=80) for n in (2, 3)),
        staged(183, 168, 3, warps=4, widest=80),
        staged(183, 168, 3, widest=80, keep=True),
        Tuning(255, 255, widest=80),
        Tuning(145, 168, widest=62),
    ],
}
# Where weights come from a table a lane has one channel or two.
ONE, TWO = 1, 999
TABLE_TUNINGS = {
    "forward": [
        *(Tuning(ONE, r, ahead=n) for r in (80, 128) for n in (0, 1)),
        *(Tuning(TWO, r, ahead=n) for r in (128, 168, 255) for n in (0, 1)),
        *(staged(v, r, n) for v, r in ((ONE, 80), (TWO, 128), (TWO, 168)) for n in (2, 3)),
    ],
    "backward": [
        *(Tuning(v, r, ahead=n) for v, r in ((ONE, 128), (ONE, 168), (TWO, 168), (TWO, 255)) for n in (0, 1)),
        *(staged(v, r, n) for v, r in ((ONE, 128), (TWO, 168), (TWO, 255)) for n in (2, 3)),
    ],
    "double backward": [
        *(Tuning(ONE, r, ahead=n, widest=m) for r, m in ((128, 40), (168, 62), (255, 62), (255, 80)) for n in (0, 1)),
        *(Tuning(TWO, 255, ahead=n, widest=m) for m in (40, 62) for n in (0, 1)),
        *(staged(ONE, r, n, widest=62) for r in (128, 168, 255) for n in (2, 3)),
    ],
}


class Job:
    """A form of a case: its program, and a call of it with the kernels of a make.

    `given`, `open`: slots of the sweep. Of a table they are its factors, in the place of weights.
    """

    def __init__(self, case: str, form: str) -> None:
        self.case, self.form, self.program = case, form, gpu.program_of(case.removesuffix(TABLE))
        self.table = OFFSETS if case in TABLES else ()
        there, self.second = [slot for slot in range(4) if self.program.dims[slot]], form == "double backward"
        self.open = tuple(slot for slot in FORMS[form] if slot in there)
        self.given: tuple[int, ...] = (*there, *(slot for slot in (HX, HY, HW) if self.second and slot % 4 in there))
        if self.table:
            self.open = tuple(B if slot == W else slot for slot in self.open)
            self.given = (*(slot for slot in self.given if slot != HW), *((B, HB) if self.second else (B,)))

    @property
    def tunings(self) -> list[Tuning]:
        """Those that are tried."""
        return (TABLE_TUNINGS if self.table else TUNINGS)[self.form]

    def kernels(self, make: launch.Make) -> list[launch.Kernels]:
        """What a call starts."""
        text, rest, made = self.program.text, self.open, []
        if launch.own_pass(text, rest, self.given, self.second, True):
            made.append(launch.kernels(make, text, (X,), self.given, self.second, True, X, self.table))
            rest = tuple(s for s in rest if s != X)
        return [*made, launch.kernels(make, text, rest, self.given, self.second, True, Z, self.table)]

    def sources(self, make: launch.Make) -> list[str]:
        """Of the CUDA kernels that a call starts."""
        made = self.kernels(make)
        sums = [k.sum_source for k in made if k.sums_x]  # type: ignore[attr-defined]
        return [*(k.source for k in made), *sums]  # type: ignore[attr-defined]

    def call(self, load: gpu.Workload, make: launch.Make) -> Callable[[], list[torch.Tensor]]:
        """The sweep on a graph's operands."""
        torch.manual_seed(1)
        device = load.edge_index.device
        g = torch.randn(load.rows[self.program.rows[Z]], self.program.dims[Z], device=device)
        made = {slot: a for slot, a in enumerate([*load.operands, g]) if slot in self.given}
        table = None
        if self.table:
            made[W] = torch.randn(KNOTS, self.program.dims[W], device=device)
            made[B] = torch.randn(load.edges, len(self.table), device=device)
            knot = torch.randint(0, KNOTS - self.table[-1], (load.edges,), device=device)
            table = launch.Table(self.table, knot)
        tangents = {HX: X, HY: Y, HW: W, HB: B}
        made |= {slot: torch.randn_like(made[of]) for slot, of in tangents.items() if slot in self.given}
        absent = torch.empty(0, device=device)
        operands = [made.get(slot, absent) for slot in range(max(made) + 1)]
        rows = {slot: load.edges if slot == B else load.rows[self.program.rows[slot]] for slot in self.open}
        index, second = load.graph.index, self.second
        return lambda: launch.sweep(make, self.program, operands, index, rows, second=second, table=table)


class Candidates:
    """Layouts by tuning, those of equal kernels once, the one in use first; `same`: the layout's name, by tuning's."""

    def __init__(self, job: Job, few: bool) -> None:
        self.makes: dict[str, launch.Make] = {}
        self.same: dict[str, str] = {}
        seen: dict[tuple[str, ...], str] = {}
        for given in [None, *job.tunings[: 1 if few else None]]:
            make = maker(torch.float32, given)
            text = "in use" if given is None else " ".join(str(int(n)) for n in given)
            self.same[text] = name = seen.setdefault(tuple(job.sources(make)), text)
            self.makes.setdefault(name, make)


def workload(case: str, edges: int) -> gpu.Workload:
    """The graph and the operands of a case, on the device."""
    return gpu.Workload(case.removesuffix(TABLE), edges, "cuda")


def compile(source: str, arch: int) -> str | None:
    """Into the cache on disk; what the compiler has against it."""
    try:
        nvrtc.cubin(source, arch)
    except BackendError as reason:
        return str(reason)
    return None


def warm_triton(case: str, form: str) -> subprocess.Popen[bytes]:
    """Compiles into Triton's cache on disk, in a process of its own."""
    return subprocess.Popen([sys.executable, __file__, "--warm", case, form])


def measure(job: Job, load: gpu.Workload, makes: dict[str, launch.Make], triton: bool) -> list[dict[str, Any]]:
    """A row for each layout: milliseconds, channels a lane and warps by unit, difference to the one in use."""
    found, expected = [], None
    for name, make in {**makes, **({"triton": TritonKernels} if triton else {})}.items():
        call = job.call(load, make)
        try:
            got = call()
            expected = expected or got
            error = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(got, expected, strict=True))
            took = gpu_run.seconds(call, "cuda", budget=0.04)["median"]
        except (BackendError, torch.OutOfMemoryError) as reason:
            print(f"{job.case} {job.form} {name}: {reason}")
            continue
        lanes = [k.layout.lanes for k in job.kernels(make)] if name != "triton" else ""  # type: ignore[attr-defined]
        row = {"case": job.case, "form": job.form, "layout": name, "ms": took * 1e3, "error": error}
        found.append(row | {"lanes": str(lanes)})
        torch.cuda.empty_cache()
    return found


def ranking(
    rows: list[dict[str, Any]], same: dict[tuple[str, str], dict[str, str]]
) -> dict[str, list[tuple[float, str]]]:
    """For each form of each kind, the geometric mean over cases of the time over the best; tunings that ran in all."""
    took = {(row["case"], row["form"], row["layout"]): row["ms"] for row in rows}
    found: dict[str, list[tuple[float, str]]] = {}
    for kind, of, form in ((kind, of, form) for kind, of in KINDS.items() for form in FORMS):
        if not (cases := [case for case in of if (case, form) in same]):
            continue
        best = {c: min(ms for (case, its, _), ms in took.items() if (case, its) == (c, form)) for c in cases}
        order = []
        for tuning in same[cases[0], form]:
            times = [took.get((c, form, same[c, form][tuning])) for c in cases]
            ratios = [t / best[c] for c, t in zip(cases, times, strict=True) if t is not None]
            if len(ratios) == len(cases):
                order.append((geometric_mean(ratios), tuning))
        found[form + kind] = sorted(order)
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """As markdown, the fastest of each sweep first."""
    lines = [
        "| case | sweep | values registers warps ahead widest keep stages | channels a lane | ms | difference |",
        "|" + "---|" * 6,
    ]
    for row in sorted(rows, key=lambda r: (EVERY.index(r["case"]), list(FORMS).index(r["form"]), r["ms"])):
        cells = row["case"], row["form"], row["layout"], row["lanes"], f"{row['ms']:.3f}", f"{row['error']:.0e}"
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=EVERY, choices=EVERY)
    parser.add_argument("--edges", type=int, default=300_000)
    parser.add_argument("--out", type=Path, default=Path("bench/out/tune_cuda.json"))
    parser.add_argument("--arch", type=int, default=90)
    parser.add_argument("--no-triton", action="store_true")
    parser.add_argument("--dry", action="store_true", help="compile two layouts of each, time nothing")
    parser.add_argument("--warm", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if not given.dry:
        gpu_run.need_device()
    if given.warm:
        Job(*given.warm).call(workload(given.warm[0], 3000), TritonKernels)()
        return
    start = time.perf_counter()
    jobs = [Job(case, form) for case in given.cases for form in FORMS]
    made = {(job.case, job.form): Candidates(job, given.dry) for job in jobs}
    sources = {s for job in jobs for make in made[job.case, job.form].makes.values() for s in job.sources(make)}
    triton = not (given.no_triton or given.dry)
    warming = [warm_triton(job.case, job.form) for job in jobs] if triton else []
    with ProcessPoolExecutor(mp_context=get_context("fork")) as pool:
        refused = [said for said in pool.map(compile, sources, repeat(given.arch)) if said]
    print(*(said[:400] for said in refused), sep="\n")
    print(f"{len(sources)} kernels compiled in {time.perf_counter() - start:.1f} s", flush=True)
    for process in warming:
        process.wait()
    print(f"Triton's at {time.perf_counter() - start:.1f} s", flush=True)
    if given.dry:
        return
    rows: list[dict[str, Any]] = []
    same: dict[tuple[str, str], dict[str, str]] = {}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    for case in given.cases:
        load = workload(case, given.edges)
        for job in (job for job in jobs if job.case == case):
            candidates = made[job.case, job.form]
            rows += measure(job, load, candidates.makes, triton)
            same[job.case, job.form] = candidates.same
        # What there is, after each case: time may be short.
        ranks = ranking(rows, same)
        found = {"device": torch.cuda.get_device_name(), "edges": given.edges, "rows": rows, "ranking": ranks}
        given.out.write_text(json.dumps(found))
    print(f"{found['device']}, {given.edges} edges, {time.perf_counter() - start:.0f} s\n{table(rows)}")
    for form, order in ranks.items():
        print(f"{form}, mean of the time over the best of each case:")
        print(*(f"  {mean:.3f}  {tuning}" for mean, tuning in order[:6]), sep="\n")


if __name__ == "__main__":
    main()
