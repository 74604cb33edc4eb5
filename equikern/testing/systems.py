"""Systems to examine a potential on, made from the elements it knows. Lengths in angstrom, everything seeded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

MOLECULES = ("CH3CH2OH", "H2O", "CH3CHO", "NH3", "C2H6", "HCl")


@dataclass(frozen=True)
class System:
    """Atoms: numbers (N,) of the elements, positions (N, 3), cell (3, 3) with lattice vectors as rows, or None."""

    name: str
    numbers: Tensor
    positions: Tensor
    cell: Tensor | None = None

    def __len__(self) -> int:
        return len(self.numbers)

    def turned(self, matrix: Tensor) -> System:
        """Every vector times a matrix of O(3), or of a strain: x -> matrix x."""
        cell = None if self.cell is None else self.cell @ matrix.T
        return replace(self, positions=self.positions @ matrix.T, cell=cell)

    def moved(self, offset: Tensor) -> System:
        """Positions plus an offset (3,) or (N, 3)."""
        return replace(self, positions=self.positions + offset)

    def permuted(self, order: Tensor) -> System:
        """The same atoms in another order."""
        return replace(self, numbers=self.numbers[order], positions=self.positions[order])

    def rattled(self, scale: float, generator: torch.Generator) -> System:
        """Every coordinate moved by a normal deviate of this scale."""
        return self.moved(scale * torch.randn(len(self), 3, generator=generator, dtype=torch.float64))

    def repeated(self, *times: int) -> System:
        """A supercell; copies follow one another."""
        assert self.cell is not None
        shifts = torch.cartesian_prod(*[torch.arange(n, dtype=torch.float64) for n in times]) @ self.cell
        positions = (shifts[:, None] + self.positions).reshape(-1, 3)
        cell = self.cell * torch.tensor(times, dtype=torch.float64)[:, None]
        return replace(self, numbers=self.numbers.repeat(len(shifts)), positions=positions, cell=cell)


def systems(elements: Sequence[int], seed: int = 0, cutoff: float = 5.0) -> list[System]:
    """Molecules of ASE's g2 set (where it has any), a random cluster, a chiral one, and a rattled triclinic crystal.

    The sides of the crystal's cell are shorter than the cutoff, if atoms are small enough.
    """
    generator = torch.Generator().manual_seed(seed)
    found = list(_molecules(elements))
    names = ["cluster"] if found else ["cluster", "another cluster"]
    found += [cluster(elements, 8, generator, name) for name in names]
    return [*found, chiral(elements), crystal(elements, cutoff).rattled(0.1, generator)]


def _molecules(elements: Sequence[int], limit: int = 2) -> Iterator[System]:
    from ase.build import molecule

    made = (molecule(name) for name in MOLECULES)
    fitting = [atoms for atoms in made if set(atoms.numbers) <= set(elements)]
    for atoms in fitting[:limit]:
        numbers = torch.from_numpy(atoms.numbers).long()
        yield System(str(atoms.symbols), numbers, torch.from_numpy(atoms.positions).double())


def bond(a: int, b: int) -> float:
    """The sum of two covalent radii (B. Cordero et al., Dalton Trans. 2008), in angstrom."""
    from ase.data import covalent_radii

    return float(covalent_radii[a] + covalent_radii[b])


def cluster(elements: Sequence[int], atoms: int, generator: torch.Generator, name: str = "cluster") -> System:
    """Atoms of random elements, each at a bond's length from an earlier one and at no less than 0.9 of it from any."""
    numbers = torch.tensor(elements)[torch.randint(len(elements), (atoms,), generator=generator)].tolist()
    positions = [torch.zeros(3, dtype=torch.float64)]
    while len(positions) < atoms:
        n = len(positions)
        anchor = int(torch.randint(n, (1,), generator=generator))
        step = torch.randn(3, generator=generator, dtype=torch.float64)
        length = bond(numbers[n], numbers[anchor]) * (1 + 0.2 * float(torch.rand(1, generator=generator)))
        new = positions[anchor] + step * (length / step.norm())
        if all((new - x).norm() >= 0.9 * bond(numbers[n], z) for x, z in zip(positions, numbers, strict=False)):
            positions.append(new)
    return System(name, torch.tensor(numbers), torch.stack(positions))


def chiral(elements: Sequence[int]) -> System:
    """A centre with four neighbours at four distances in general directions: no mirror image can be turned onto it."""
    around = torch.tensor([[1, 1, 1.1], [-1, -0.9, 1], [-1, 1.2, -1], [1, -1, -1.3]], dtype=torch.float64)
    numbers = [elements[n % len(elements)] for n in range(5)]
    lengths = torch.tensor([bond(numbers[0], z) * (1 + 0.08 * n) for n, z in enumerate(numbers[1:])])
    positions = around / around.norm(dim=1, keepdim=True) * lengths[:, None]
    return System("chiral", torch.tensor(numbers), torch.cat([positions.new_zeros(1, 3), positions]))


def crystal(elements: Sequence[int], cutoff: float) -> System:
    """Two atoms without symmetry in a sheared cell of 0.7 cutoffs, so that atoms see their images, and 1.4 bonds."""
    first, second = elements[0], elements[-1]
    side = max(0.7 * cutoff, 1.4 * bond(first, first), 1.4 * bond(second, second))
    shear = torch.tensor([[1, 0, 0], [0.15, 1.05, 0], [-0.1, 0.2, 0.95]], dtype=torch.float64)
    cell = side * shear
    inside = torch.tensor([[0, 0, 0], [0.42, 0.53, 0.6]], dtype=torch.float64)
    return System("crystal", torch.tensor([first, second]), inside @ cell, cell)


def degenerate(elements: Sequence[int]) -> list[System]:
    """One atom, two, three on a line, two neighbours in one direction, a planar ring of six."""
    z, d = elements[0], 1.1 * bond(elements[0], elements[0])
    x = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    angles = torch.arange(6, dtype=torch.float64) * (torch.pi / 3)
    ring = d * torch.stack([angles.cos(), angles.sin(), torch.zeros(6, dtype=torch.float64)], 1)
    shapes = {
        "one atom": 0 * x[None],
        "two atoms": torch.stack([0 * x, d * x]),
        "three on a line": torch.stack([-d * x, 0 * x, d * x]),
        "two in one direction": torch.stack([0 * x, d * x, 2 * d * x]),
        "planar ring": ring,
    }
    return [System(name, torch.full((len(p),), z), p) for name, p in shapes.items()]


def chain(elements: Sequence[int], spacing: float, length: float) -> System:
    """Atoms along x, a little off the axis, the first and the last at least `length` apart."""
    atoms = int(length / spacing) + 2
    n = torch.arange(atoms, dtype=torch.float64)
    positions = torch.stack([spacing * n, 0.1 * spacing * (2 * n).sin(), 0.1 * spacing * (3 * n).cos()], 1)
    return System("chain", torch.tensor([elements[i % len(elements)] for i in range(atoms)]), positions)


def joined(a: System, b: System) -> System:
    """Two finite systems as one."""
    return System(a.name, torch.cat([a.numbers, b.numbers]), torch.cat([a.positions, b.positions]))
