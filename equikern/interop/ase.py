"""ASE: a calculator of any `Potential`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from equikern.errors import EquikernError
from equikern.graph import VerletList
from equikern.models import Potential

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator


def calculator(potential: Potential, *, skin: float = 0.5, energy_unit: float = 1.0) -> Calculator:
    """An ASE calculator: energy, energies, forces and stress, in eV and angstrom; dipoles of molecules, in e angstrom.

    The neighbour list reaches `skin` (angstrom) beyond the cutoff and is searched again when an atom moved more than
    half of it; the skin changes the speed, not the results. energy_unit: the potential's unit of energy in eV, as
    `ase.units.kcal / ase.units.mol`. The stress needs a cell that is periodic in all directions, a
    dipole none that is and a model that has it. Errors are those of `Potential`. On a device each step waits for it:
    ASE's atoms are on the host.
    """
    try:
        from ase.calculators.calculator import Calculator, all_changes
    except ImportError:
        raise EquikernError("ASE's calculators need ASE, which is not installed: pip install ase") from None

    class PotentialCalculator(Calculator):  # type: ignore[misc]
        implemented_properties = ["energy", "free_energy", "energies", "forces", "stress", "dipole"]  # noqa: RUF012

        def __init__(self) -> None:
            super().__init__()
            self.potential, self.neighbours = potential, VerletList(potential.cutoff, skin)

        def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes) -> None:
            super().calculate(atoms, properties, system_changes)
            home = self.potential.species_of.device
            tensors = (torch.tensor(a, device=home) for a in (atoms.numbers, atoms.positions, atoms.cell.array))
            numbers, positions, cell = tensors
            lattice = {"cell": cell, "pbc": torch.tensor(atoms.pbc)} if atoms.pbc.any() else {}
            with torch.no_grad():
                edges = self.neighbours(positions, **lattice)
                found = self.potential(numbers, positions, **lattice, edges=edges)
            energy = energy_unit * found["energy"].item()
            self.results = {
                "energy": energy,
                "free_energy": energy,
                "energies": energy_unit * found["energies"].cpu().numpy(),
                "forces": energy_unit * found["forces"].cpu().numpy(),
            }
            if "dipole" in found:
                self.results["dipole"] = found["dipole"][0].cpu().numpy()
            if atoms.pbc.all():
                xx, yy, zz, yz, xz, xy = 0, 4, 8, 5, 2, 1
                stress = energy_unit * found["stress"].flatten().cpu().numpy()
                self.results["stress"] = stress[[xx, yy, zz, yz, xz, xy]]

    return PotentialCalculator()
