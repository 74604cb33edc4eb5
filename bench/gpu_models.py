"""Whole potentials on a CUDA device, accelerated and as they are: energy with forces, and one step of force training.

    python bench/gpu_models.py --out bench/out/gpu_models.json [--models SevenNet-0 NequIP MACE] [--repeats 3 6] [--dry]

Rattled copper of 4 repeat^3 atoms (MACE: rock salt of 8 repeat^3). Models and structures are those of `test_models.py`
and `test_mace.py` (mace-torch needs e3nn 0.4.4); ours is `equikern.accelerate(model)`, moved to the device afterwards.
Forces are compared before the clock starts. Times are of CUDA events, median; `graph`: the step as a CUDA graph. A
model whose library is not installed is named and left out. `--dry` runs small structures on the CPU.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch

with suppress(ImportError), warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import mace  # noqa: F401  (first: it lets torch load the constants of the e3nn that it needs)

from gpu_run import Run, graphed, options, seconds
from test_models import Rival, crystal, fresh, potential, training_step

import equikern
from equikern.testing import potentials

STEPS = ("energy+forces", "training step")
MODELS = ("SevenNet-0", "NequIP", "MACE")


def rival(name: str, repeat: int) -> tuple[Rival, int]:
    """The model as it is with its input on the CPU, and the number of atoms."""
    if name == "MACE":
        import test_mace

        atoms = test_mace.crystal(repeat)
        given = potentials.mace_input(atoms, test_mace.NUMBERS)
        return Rival(test_mace.Public(copy.deepcopy(test_mace.model())), given, test_mace.results), len(atoms)
    kind, atoms = potential(name), crystal(repeat)
    return Rival(copy.deepcopy(kind.model), kind.given(atoms), kind.results), len(atoms)


def moved(given: Any, device: str) -> Any:
    """An input on the device."""
    if not isinstance(given, dict):
        return given.to(device)
    return {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in given.items()}


def step(one: Rival, name: str) -> Callable[[], Any]:
    """What is timed."""
    one.model.train(name == "training step")
    if name == "training step":
        return lambda: training_step(one.model, one.given, one.results)
    return lambda: one.model(fresh(one.given))


def measured(call: Callable[[], Any], device: str) -> dict[str, Any]:
    """Time and peak memory, or why there is none."""
    try:
        if device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        found: dict[str, Any] = seconds(call, device)
        if device == "cuda":
            found["memory"] = torch.cuda.max_memory_allocated()
    except Exception as reason:
        return {"skipped": f"{type(reason).__name__}: {str(reason)[:160]}"}
    return found


def rows(name: str, repeat: int, device: str) -> list[dict[str, Any]]:
    """Both steps of a model on a structure."""
    cpu, atoms = rival(name, repeat)
    given = moved(cpu.given, device)
    theirs = cpu._replace(model=copy.deepcopy(cpu.model).to(device), given=given)
    ours = cpu._replace(model=equikern.accelerate(copy.deepcopy(cpu.model)).to(device), given=given)
    ours.model.eval(), theirs.model.eval()
    expected, got = (one.results(one.model(fresh(given)))[1].detach() for one in (theirs, ours))
    error = float((got - expected).abs().max() / expected.abs().max())
    found = []
    for kind in STEPS:
        row: dict[str, Any] = {"model": name, "atoms": atoms, "edges": given["edge_index"].shape[1], "step": kind}
        row |= {"error": error}
        if error > 1e-4:
            found.append(row | {"ours": {"skipped": f"forces differ by {error:.1e}"}})
            continue
        row["ours"] = measured(step(ours, kind), device)
        if device == "cuda" and kind == STEPS[0]:
            call = step(ours, kind)
            try:
                row["graph"] = measured(graphed(call), device)
            except Exception as reason:
                row["graph"] = {"skipped": f"{type(reason).__name__}: {str(reason)[:160]}"}
        row["theirs"] = measured(step(theirs, kind), device)
        found.append(row)
    return found


def table(results: dict[str, Any]) -> str:
    """What was measured, as markdown."""
    lines = [
        "| model | atoms | edges | step | equikern, ms | as it is, ms | ratio | as a CUDA graph, ms | memory, MB |"
    ]
    lines.append("|" + "---|" * 9)
    for row in results["models"]:
        cells = [row.get(who) for who in ("ours", "theirs", "graph")]
        times = ["–" if c is None else c.get("skipped") or f"{c['median'] * 1e3:.2f}" for c in cells]
        both = all(c and "median" in c for c in cells[:2])
        ratio = f"**{cells[1]['median'] / cells[0]['median']:.1f}×**" if both else "–"
        memory = " / ".join("–" if not c or "memory" not in c else f"{c['memory'] >> 20}" for c in cells[:2])
        head = f"| {row['model']} | {row['atoms']} | {row['edges']} | {row['step']} "
        lines.append(head + f"| {times[0]} | {times[1]} | {ratio} | {times[2]} | {memory} |")
    return "\n".join(lines)


def main() -> None:
    parser = options(__doc__, "gpu_models")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--repeats", nargs="+", type=int, default=[3, 6])
    run = Run(parser, table, models=[])
    warnings.simplefilter("ignore")
    for name in run.given.models:
        for repeat in [1] if run.dry else run.given.repeats:
            try:
                run.results["models"] += rows(name, repeat, run.device)
            except (Exception, SystemExit, pytest.skip.Exception) as reason:
                run.save(f"{name}, repeat {repeat}: {type(reason).__name__}: {str(reason)[:300]}")
            run.save()
    run.end()


if __name__ == "__main__":
    main()
