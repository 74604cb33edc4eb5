"""The ASE calculator: ASE's own finite differences, molecules, crystals and slabs, dynamics."""

import sys

import numpy as np
import pytest
import torch

from equikern.errors import EquikernError
from equikern.interop.ase import calculator
from equikern.models import PaiNN, PaiNNConfig, Potential

pytest.importorskip("ase", reason="ase is not installed")


def potential(dtype=torch.float64):
    torch.manual_seed(0)
    model = PaiNN(PaiNNConfig(2, 8, 4, "bessel", 8, 4, 3.5)).to(dtype)
    return Potential(model, [1, 6, 8, 29], reference_energies=[-13.6, -1000.0, -2000.0, -3000.0], scale=3.0)


def structures():
    from ase.build import bulk, fcc111, molecule

    crystal = bulk("Cu", a=3.2, cubic=False) * (2, 1, 1)
    supercell = bulk("Cu", a=3.4, cubic=True) * (2, 1, 1)
    skewed = supercell.copy()
    skewed.set_cell(skewed.cell.array @ (np.eye(3) + 0.2 * np.eye(3, k=1)), scale_atoms=True)
    found = {
        "molecule": molecule("CH3CH2OH"),
        "thin crystal": crystal,
        "crystal": supercell,
        "triclinic": skewed,
        "slab": fcc111("Cu", (1, 2, 3), a=3.4, vacuum=None),
    }
    for atoms in found.values():
        atoms.rattle(0.1, seed=0)
    return found


@pytest.fixture(params=structures().items() if pytest.importorskip("ase") else (), ids=lambda given: given[0])
def atoms(request):
    made = request.param[1].copy()
    made.calc = calculator(potential())
    return made


def test_forces_are_those_of_ases_finite_differences(atoms):
    from ase.calculators.fd import calculate_numerical_forces

    forces = atoms.get_forces()
    expected = calculate_numerical_forces(atoms, eps=1e-4)
    assert abs(forces - expected).max() <= 1e-6 * max(1, abs(forces).max())
    assert abs(forces).max() > 1e-3


def test_stress_is_that_of_ases_finite_differences(atoms):
    from ase.calculators.calculator import PropertyNotImplementedError
    from ase.calculators.fd import calculate_numerical_stress

    if not atoms.pbc.all():
        with pytest.raises(PropertyNotImplementedError):
            atoms.get_stress()
        return
    stress = atoms.get_stress(voigt=False)
    expected = calculate_numerical_stress(atoms, eps=1e-5, voigt=False)
    assert abs(stress - expected).max() <= 1e-6 * max(1, abs(stress).max())
    assert abs(stress).max() > 1e-4


def test_the_energies_of_the_atoms_add_up(atoms):
    energies = atoms.get_potential_energies()
    assert energies.shape == (len(atoms),)
    assert energies.sum() == pytest.approx(atoms.get_potential_energy(), rel=1e-13)
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()


def test_energies_are_given_in_ev():
    from ase import units

    atoms = structures()["crystal"]
    found = []
    for unit in (1.0, units.kcal / units.mol):
        atoms.calc = calculator(potential(), energy_unit=unit)
        found.append([atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()])
    for ev, converted in zip(*found, strict=True):
        np.testing.assert_allclose(converted, ev * units.kcal / units.mol, rtol=1e-12)


def test_molecules_have_the_dipole_of_their_potential():
    from ase.calculators.calculator import PropertyNotImplementedError

    model = PaiNN(PaiNNConfig(2, 8, 4, "bessel", 8, 4, 3.5), dipole=True).double()
    polar, atoms = Potential(model, [1, 6, 8, 29]), structures()["molecule"]
    atoms.calc = calculator(polar)
    expected = polar.predict(atoms.numbers, atoms.positions)["dipole"]
    np.testing.assert_allclose(atoms.get_dipole_moment(), expected, atol=1e-12)
    atoms.calc = calculator(potential())
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_dipole_moment()


def test_one_calculator_follows_other_atoms_and_other_cells():
    shared = calculator(potential())
    for name in ("molecule", "crystal", "molecule", "slab", "triclinic"):
        atoms, alone = structures()[name], structures()[name]
        atoms.calc, alone.calc = shared, calculator(potential())
        np.testing.assert_allclose(atoms.get_forces(), alone.get_forces(), atol=1e-12)


def test_the_skin_changes_no_result_and_saves_searches():
    from ase.md.verlet import VelocityVerlet

    paths = []
    for skin in (0.0, 0.6):
        atoms = structures()["crystal"]
        atoms.calc = calculator(potential(), skin=skin)
        atoms.set_momenta(np.random.default_rng(0).normal(size=(len(atoms), 3)) * 3)
        VelocityVerlet(atoms, timestep=0.05).run(20)
        paths.append(atoms.positions)
        searches = atoms.calc.neighbours.searches
        assert searches == 21 if skin == 0 else 1 <= searches < 10
    np.testing.assert_allclose(*paths, atol=1e-9)


@pytest.mark.parametrize("name", ["molecule", "triclinic"])
def test_energy_is_kept_at_constant_energy(name):
    from ase import units
    from ase.md.verlet import VelocityVerlet

    atoms = structures()[name]
    atoms.calc = calculator(potential(), skin=0.3)
    masses = atoms.get_masses()[:, None]
    atoms.set_momenta(np.random.default_rng(1).normal(size=(len(atoms), 3)) * np.sqrt(masses * 300 * units.kB))
    start, kinetic = atoms.get_total_energy(), atoms.get_kinetic_energy()
    lowest = highest = kinetic
    run = VelocityVerlet(atoms, timestep=0.2 * units.fs)
    for _ in range(60):
        run.run(1)
        lowest, highest = min(lowest, atoms.get_kinetic_energy()), max(highest, atoms.get_kinetic_energy())
    assert highest - lowest > 1e-2  # energy was exchanged
    assert abs(atoms.get_total_energy() - start) < 1e-2 * (highest - lowest)


def test_a_thermostat_runs():
    from ase import units
    from ase.md.langevin import Langevin

    atoms = structures()["molecule"]
    atoms.calc = calculator(potential(torch.float32))
    random = np.random.default_rng(0)
    Langevin(atoms, 0.5 * units.fs, temperature_K=300, friction=0.1, rng=random, fixcm=False).run(20)
    assert np.isfinite(atoms.positions).all() and atoms.get_temperature() > 1


def test_unknown_elements_are_refused():
    from ase.build import molecule

    atoms = molecule("NH3")
    atoms.calc = calculator(potential())
    with pytest.raises(EquikernError, match=r"\[7\]"):
        atoms.get_potential_energy()


def test_without_ase_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ase.calculators.calculator", None)
    with pytest.raises(EquikernError, match="pip install ase"):
        calculator(potential())
