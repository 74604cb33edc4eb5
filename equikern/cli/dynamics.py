"""Molecular dynamics at constant energy (velocity Verlet), and how well the energy is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass
class Drift:
    """Total energy per atom along a run; times in ps, energies in meV/atom relative to the start."""

    times: NDArray[np.float64]
    energies: NDArray[np.float64]

    @property
    def largest(self) -> float:
        """max |E(t) - E(0)| in meV/atom."""
        return float(abs(self.energies).max())

    @property
    def slope(self) -> float:
        """Slope of the straight line through E(t), in meV/atom/ps."""
        return float(np.polyfit(self.times, self.energies, 1)[0])


def run(
    atoms: Any,
    calculator: Any,
    steps: int,
    *,
    kelvin: float = 300.0,
    femtoseconds: float = 1.0,
    tick: Callable[[], object],
) -> Drift:
    """`steps` steps from `atoms` (not changed) with Maxwell-Boltzmann velocities at `kelvin`, the same each call."""
    from ase import units
    from ase.md.verlet import VelocityVerlet

    atoms = atoms.copy()
    masses = atoms.get_masses()[:, None]  # (N, 1)
    momenta = np.random.default_rng(0).normal(size=(len(atoms), 3)) * np.sqrt(masses * kelvin * units.kB)
    atoms.set_momenta(momenta - masses * momenta.sum(0) / masses.sum())
    atoms.calc = calculator
    energies = [atoms.get_total_energy()]
    integrator = VelocityVerlet(atoms, timestep=femtoseconds * units.fs)
    for _ in range(steps):
        integrator.run(1)
        energies.append(atoms.get_total_energy())
        tick()
    times = np.arange(steps + 1, dtype=np.float64) * femtoseconds * 1e-3
    return Drift(times, 1e3 * (np.array(energies) - energies[0]) / len(atoms))


def plot(drifts: dict[str, Drift], title: str, file: Path) -> None:
    """Draw the energies of the runs over time."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for style, (engine, drift) in zip(("-", "--"), drifts.items(), strict=False):
        axes.plot(drift.times, drift.energies, style, label=f"{engine}: slope {drift.slope:+.3f} meV/atom/ps")
    axes.set(xlabel="time (ps)", ylabel="E(t) - E(0) (meV/atom)", title=title)
    axes.legend()
    figure.savefig(file, dpi=150)
