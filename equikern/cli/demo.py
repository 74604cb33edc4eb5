"""A trained potential on real structures, with e3nn and with equikern: the same numbers, and how much faster."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from equikern.cli import dynamics
from equikern.cli.compare import ENGINES, HEADER, Comparison, Potential, compare, structures, table

INSTALL = "pip install 'equikern[demo]'"
NEEDED = ("e3nn", "ase", "tqdm", "matplotlib")
# The largest differences that float32 explains: eV/angstrom, and eV/atom.
FORCE_LIMIT, ENERGY_LIMIT = 2e-5, 2e-6
STRUCTURES = ("NaCl-64", "NaCl-216", "Cu-108", "ethanol")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument("--model", default="7net-0", help="a SevenNet model by name or checkpoint path (7net-0)")
    parser.add_argument("--structures", nargs="+", choices=STRUCTURES, default=STRUCTURES, help="which ones (all)")
    parser.add_argument("--repeats", type=int, default=5, help="timed evaluations of each engine a structure (5)")
    parser.add_argument("--steps", type=int, default=50, help="steps of 1 fs of molecular dynamics, 0 for none (50)")
    parser.add_argument("--threads", type=int, help="threads of torch and equikern (torch's default)")
    parser.add_argument("--plot", type=Path, default=Path("equikern_demo.png"), help="where the energy plot goes")
    parser.add_argument("--json", type=Path, help="write all results to this file")


def run(arguments: argparse.Namespace) -> int:
    """0: the numbers agree; 1: they do not; 2: a library is missing."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        print(f"The demo needs {', '.join(missing)}: {INSTALL}", file=sys.stderr)
        return 2
    import torch
    from tqdm import tqdm

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    potentials, title = _potentials(arguments.model)
    print(f"{title}, float32, {torch.get_num_threads()} threads\n")
    print(f"Replaced by equikern:\n{_replaced(potentials['equikern'].model)}\n")
    made = structures()
    found = []
    with tqdm(total=len(arguments.structures) * arguments.repeats, desc="comparing", disable=None) as bar:
        for name in arguments.structures:
            found.append(compare(name, made[name](), potentials, arguments.repeats, bar.update))
    print(table([HEADER, *(c.row() for c in found)]))
    print(
        "dF in eV/angstrom, dE in eV, dS in eV/angstrom^3. Times: a whole calculator step (neighbour list, energy,\n"
        f"forces, stress), best (median) of {arguments.repeats}, alternating. Ratios of the best times: the whole\n"
        "step, and the model alone.\n"
    )
    drifts = _dynamics(made, potentials, arguments, title) if arguments.steps else {}
    if arguments.json:
        arguments.json.write_text(json.dumps(_record(title, torch.get_num_threads(), found, drifts), indent=2) + "\n")
        print(f"results: {arguments.json}")
    return _verdict(found)


def _potentials(model: str) -> tuple[dict[str, Potential], str]:
    """The same potential for each engine, and what it is."""
    import equikern

    if find_spec("sevenn") is None:
        print(f"sevenn is not installed ({INSTALL}): a small e3nn network with random weights stands in.\n")
        made, title = [_network(), _network()], "NequIP-like e3nn network, random weights"
    else:
        made, title = [_sevennet(model), _sevennet(model)], f"SevenNet {model}"
    equikern.accelerate(made[1].model)
    return dict(zip(ENGINES, made, strict=True)), title


def _sevennet(model: str) -> Potential:
    from sevenn.calculator import SevenNetCalculator

    with warnings.catch_warnings():
        # It advises accelerators for GPUs.
        warnings.simplefilter("ignore")
        calculator = SevenNetCalculator(model, device="cpu")
    return Potential(calculator, calculator.model)


def _network() -> Potential:
    import torch

    from equikern.cli.network import EnergyAndForces, Network, calculator

    torch.manual_seed(0)
    model = EnergyAndForces(Network(layers=3))
    return Potential(calculator(model), model)


def _replaced(model: Any) -> str:
    from collections import Counter

    from equikern.interop import report

    counts = Counter(entry.kind for entry in report(model).replaced)
    return "\n".join(f"  {count} {kind}" for kind, count in counts.items()) or "  nothing"


def _dynamics(
    made: dict[str, Any], potentials: dict[str, Potential], arguments: argparse.Namespace, title: str
) -> dict[str, dynamics.Drift]:
    from tqdm import tqdm

    name = arguments.structures[0]
    drifts = {}
    for engine, potential in potentials.items():
        with tqdm(total=arguments.steps, desc=f"dynamics, {engine}", disable=None) as bar:
            drifts[engine] = dynamics.run(made[name](), potential.calculator, arguments.steps, tick=bar.update)
    rows: list[tuple[str, ...]] = [
        (f"NVE {name}, 300 K, {arguments.steps} fs", "max |E(t)-E(0)| meV/atom", "slope meV/atom/ps")
    ]
    rows += [(engine, f"{drift.largest:.4f}", f"{drift.slope:+.4f}") for engine, drift in drifts.items()]
    print(table(rows))
    dynamics.plot(drifts, f"{title}, {name}, constant energy, 1 fs", arguments.plot)
    print(f"energy plot: {arguments.plot}\n")
    return drifts


def _record(title: str, threads: int, found: list[Comparison], drifts: dict[str, dynamics.Drift]) -> dict[str, Any]:
    return {
        "model": title,
        "dtype": "float32",
        "threads": threads,
        "structures": [
            asdict(c) | {"step_ratio": c.ratio(), "model_ratio": c.ratio(model=True)} for c in found
        ],
        "dynamics": {
            engine: {
                "max_drift_meV_per_atom": drift.largest,
                "slope_meV_per_atom_per_ps": drift.slope,
                "times_ps": drift.times.tolist(),
                "energies_meV_per_atom": drift.energies.tolist(),
            }
            for engine, drift in drifts.items()
        },
    }  # fmt: skip


def _verdict(found: list[Comparison]) -> int:
    force = max(c.force_difference for c in found)
    energy = max(c.energy_difference_per_atom for c in found)
    same = force <= FORCE_LIMIT and energy <= ENERGY_LIMIT
    print(
        f"{'The numbers agree' if same else 'THE NUMBERS DIFFER'}: forces to {force:.1e} eV/angstrom "
        f"(limit {FORCE_LIMIT:.0e}), energies to {energy:.1e} eV/atom (limit {ENERGY_LIMIT:.0e})."
    )
    return 0 if same else 1
