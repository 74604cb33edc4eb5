"""One potential twice, with e3nn and with equikern, on the same atoms: differences and times."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch

ENGINES = ("e3nn", "equikern")


@dataclass
class Potential:
    """An ASE calculator, and how long its model alone took at the last call (graph building excluded), in seconds."""

    calculator: Any
    model: torch.nn.Module
    model_time: float = 0.0

    def __post_init__(self) -> None:
        started = [0.0]

        def start(*_: Any) -> None:
            started[0] = time.perf_counter()

        def stop(*_: Any) -> None:
            self.model_time = time.perf_counter() - started[0]

        # The models compute forces inside their forward.
        self.model.register_forward_pre_hook(start)
        self.model.register_forward_hook(stop)


@dataclass
class Comparison:
    """What was found on one structure; times in seconds, one an evaluation, by engine."""

    name: str
    atoms: int
    edges: int
    force_difference: float
    energy_difference_per_atom: float
    stress_difference: float | None
    step_times: dict[str, list[float]] = field(default_factory=dict)
    model_times: dict[str, list[float]] = field(default_factory=dict)

    def ratio(self, model: bool = False) -> float:
        """e3nn's best time over equikern's, of the whole calculator step or of the model alone."""
        times = self.model_times if model else self.step_times
        return min(times["e3nn"]) / min(times["equikern"])

    def row(self) -> tuple[str, ...]:
        """The table's columns."""
        times = [f"{1e3 * min(t):.1f} ({1e3 * median(t):.1f})" for t in (self.step_times[e] for e in ENGINES)]
        stress = "-" if self.stress_difference is None else f"{self.stress_difference:.1e}"
        return (
            self.name, str(self.atoms), str(self.edges),
            f"{self.force_difference:.1e}", f"{self.energy_difference_per_atom:.1e}", stress,
            *times, f"{self.ratio():.1f}x", f"{self.ratio(model=True):.1f}x",
        )  # fmt: skip


HEADER = (
    "structure", "atoms", "edges", "max |dF|", "|dE|/atom", "max |dS|",
    "e3nn ms", "equikern ms", "step", "model",
)  # fmt: skip


def structures() -> dict[str, Callable[[], Any]]:
    """The demo's structures by name, each displaced by `rattle(0.1, seed=0)` when made."""
    from ase.build import bulk, molecule

    def boxed() -> Any:
        ethanol = molecule("CH3CH2OH", vacuum=8.0)
        ethanol.pbc = True
        return ethanol

    made: dict[str, Callable[[], Any]] = {
        "NaCl-64": lambda: bulk("NaCl", "rocksalt", a=5.64, cubic=True) * (2, 2, 2),
        "NaCl-216": lambda: bulk("NaCl", "rocksalt", a=5.64, cubic=True) * (3, 3, 3),
        "Cu-108": lambda: bulk("Cu", "fcc", a=3.615, cubic=True) * (3, 3, 3),
        "ethanol": boxed,
    }
    return {name: lambda make=make: _rattled(make()) for name, make in made.items()}  # type: ignore[misc]


def _rattled(atoms: Any) -> Any:
    atoms.rattle(0.1, seed=0)
    return atoms


def evaluate(potential: Potential, atoms: Any) -> tuple[dict[str, Any], float]:
    """The calculator's results and the seconds that the whole step took, graph building included."""
    start = time.perf_counter()
    potential.calculator.calculate(atoms)
    return dict(potential.calculator.results), time.perf_counter() - start


def compare(
    name: str, atoms: Any, potentials: dict[str, Potential], repeats: int, tick: Callable[[], object] = lambda: None
) -> Comparison:
    """Evaluate both engines in turn, once to warm up and to compare, then `repeats` times to time them."""
    results = {engine: evaluate(potentials[engine], atoms)[0] for engine in ENGINES}
    a, b = (results[engine] for engine in ENGINES)
    found = Comparison(
        name,
        len(atoms),
        int(a["num_edges"]),
        float(abs(a["forces"] - b["forces"]).max()),
        abs(a["energy"] - b["energy"]) / len(atoms),
        float(abs(a["stress"] - b["stress"]).max()) if "stress" in a else None,
        {engine: [] for engine in ENGINES},
        {engine: [] for engine in ENGINES},
    )
    for _ in range(repeats):
        for engine in ENGINES:
            _, seconds = evaluate(potentials[engine], atoms)
            found.step_times[engine].append(seconds)
            found.model_times[engine].append(potentials[engine].model_time)
        tick()
    return found


def table(rows: list[tuple[str, ...]]) -> str:
    """Rows of text in aligned columns, numbers to the right."""
    widths = [max(len(row[c]) for row in rows) for c in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if c == 0 else cell.rjust(w) for c, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
