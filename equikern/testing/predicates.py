"""What a transformation of a system does to its prediction: P1 to P12, and P0, without which they say nothing.

Each yields (error, tolerance, where) of all that it looked at. `consistency.py` has P13 to P20.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from equikern.program import Irreps
from equikern.program.wigner import wigner_d
from equikern.testing.systems import System, joined
from equikern.testing.trial import DoesNotApply, Found, Probe, Trial, finite, predicate, relative

MIRROR = torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64))
INVERSION = -torch.eye(3, dtype=torch.float64)


@predicate("P0", "not constant")
def not_constant(t: Trial) -> Iterator[Found]:
    """The energy varies over rattled frames by ten tolerances at least, and there are forces."""
    for probe in t.probes:
        least = 10 * t.tolerances[0] * probe.energy_scale
        spread, force = float(probe.frames.std()), float(probe.prediction["forces"].abs().max())
        yield finite(least / spread if spread else float("inf")), 1.0, f"10 tolerances / std(E) of {probe.system.name}"
        yield (0.0 if 0 < force < float("inf") else float("inf")), 1.0, f"forces of {probe.system.name}"


@predicate("P1", "rotation, energy")
def rotation_energy(t: Trial) -> Iterator[Found]:
    """E(R x) = E(x)."""
    for probe, _ in t.cases():
        yield t.energy(probe, t.subject(probe.system.turned(t.rotation())), "turned")


@predicate("P2", "rotation, forces")
def rotation_forces(t: Trial) -> Iterator[Found]:
    """F(R x) = R F(x)."""
    for probe, _ in t.cases():
        r = t.rotation()
        got = t.subject(probe.system.turned(r))
        yield t.other(probe, "forces", got, probe.prediction["forces"] @ r.T, "turned")


@predicate("P3", "translation")
def translation(t: Trial) -> Iterator[Found]:
    """E and F of x + t are those of x; in float64 E far away too, where coordinates round."""
    for probe, _ in t.cases():
        got = t.subject(probe.system.moved(10 * t.normal(3)))
        yield t.energy(probe, got, "moved")
        yield t.other(probe, "forces", got, probe.prediction["forces"], "moved")
    if t.subject.dtype == torch.float64:
        for probe in t.probes:
            far = 1e3 * t.normal(3)
            error, tolerance, where = t.energy(probe, t.subject(probe.system.moved(far)), "moved far")
            rounding = 4 * torch.finfo(torch.float64).eps * float(far.norm() * probe.prediction["forces"].abs().sum())
            yield error, tolerance + rounding / probe.energy_scale, where


@predicate("P4", "permutation")
def permutation(t: Trial) -> Iterator[Found]:
    """Atoms in another order have the same energy, and their forces in that order."""
    for probe, _ in t.cases():
        order = torch.randperm(len(probe.system), generator=t.generator)
        got = t.subject(probe.system.permuted(order))
        yield t.energy(probe, got, "permuted")
        yield t.other(probe, "forces", got, probe.prediction["forces"][order], "permuted")


@predicate("P5", "mirror")
def mirror(t: Trial) -> Iterator[Found]:
    """P1 and P2 for a reflection, the inversion and random improper rotations."""
    for probe, draw in t.cases():
        r = (MIRROR, INVERSION)[draw] if draw < 2 else t.rotation(-1)
        got = t.subject(probe.system.turned(r))
        yield t.energy(probe, got, "mirrored")
        yield t.other(probe, "forces", got, probe.prediction["forces"] @ r.T, "mirrored")


@predicate("P6", "pseudoscalar")
def pseudoscalar(t: Trial) -> Iterator[Found]:
    """c(R x) = det(R) c(x); zero where there is a mirror plane."""
    t.has("pseudoscalar", periodic=False)
    for probe, draw in t.cases(periodic=False):
        det, c = 1 - 2 * (draw % 2), probe.prediction["pseudoscalar"]
        yield t.other(probe, "pseudoscalar", t.subject(probe.system.turned(t.rotation(det))), det * c, "turned")
        got = t.subject(_with_image(probe.system, MIRROR))
        yield t.other(probe, "pseudoscalar", got, 0 * c, "with its mirror image")


@predicate("P7", "dipole")
def dipole(t: Trial) -> Iterator[Found]:
    """mu(R x) = R mu(x), R = -1 included; zero where there is a centre of inversion."""
    t.has("dipole", periodic=False)
    for probe, draw in t.cases(periodic=False):
        r = t.rotation(1 - 2 * (draw % 2)) if draw else INVERSION
        mu = probe.prediction["dipole"]
        yield t.other(probe, "dipole", t.subject(probe.system.turned(r)), r @ mu, "turned")
        yield t.other(probe, "dipole", t.subject(_with_image(probe.system, INVERSION)), 0 * mu, "with its inverse")


@predicate("P8", "stress")
def stress(t: Trial) -> Iterator[Found]:
    """W(R x, R cell) = R W R^T."""
    t.has("stress", periodic=True)
    for probe, _ in t.cases(periodic=True):
        r = t.rotation()
        expected = r @ probe.prediction["stress"] @ r.T
        yield t.other(probe, "stress", t.subject(probe.system.turned(r)), expected, "turned")


@predicate("P9", "features")
def features(t: Trial) -> Iterator[Found]:
    """h(R x) = D(R) h(x) for every hidden block, as its irreps say; improper R where one of them has its parity."""
    of = t.subject.features
    if of is None:
        raise DoesNotApply("no hidden features are given")

    def blocks(system: System) -> list[tuple[str, Tensor]]:
        numbers, positions, _ = t.subject.arguments(system)
        return [(irreps, h.detach().double()) for irreps, h in of(numbers, positions)]

    for probe, draw in t.cases(periodic=False):
        r = t.rotation(1 - 2 * (draw % 2))
        turned = blocks(probe.system.turned(r))
        for n, ((irreps, h), (_, got)) in enumerate(zip(blocks(probe.system), turned, strict=True)):
            error = relative(got, h @ representation(irreps, r).T, float(h.abs().max()))
            yield error, t.tolerances[1], f"block {n}, {irreps}, of {probe.system.name}"


def representation(irreps: str, r: Tensor) -> Tensor:
    """D(R) (dim, dim) in float64 of irreps in the layout mul_ir, for r of O(3)."""
    det = int(torch.linalg.det(r).sign())
    turn = (det * r).numpy()
    blocks = [
        torch.from_numpy(wigner_d(ir.l, turn)) * (ir.p if det < 0 else 1)
        for mul, ir in Irreps(irreps)
        for _ in range(mul)
    ]
    return torch.block_diag(*blocks)


@predicate("P10", "periodic image")
def periodic_image(t: Trial) -> Iterator[Found]:
    """Atoms moved by lattice vectors, one by one and into the cell, change nothing."""
    for probe, draw in t.cases(periodic=True):
        cell = _cell(probe)
        shift = t.integers(-2, 2, len(probe.system), 3)
        if draw == 0:
            shift = -torch.floor(probe.system.positions @ torch.linalg.inv(cell))
        got = t.subject(probe.system.moved(shift @ cell))
        yield t.energy(probe, got, "in another image")
        yield t.other(probe, "forces", got, probe.prediction["forces"], "in another image")


@predicate("P11", "supercell")
def supercell(t: Trial) -> Iterator[Found]:
    """A cell repeated n times has n times the energy; its sides may be shorter than the cutoff, or longer."""
    cutoff = 5.0 if t.subject.cutoff is None else t.subject.cutoff
    for small in t.some(periodic=True):
        times = [int(cutoff / float(side)) + 1 for side in _cell(small).norm(dim=1)]
        large = small.system.repeated(*times).rattled(0.05, t.generator)
        for probe, doubled in ((small, (2, 1, 1)), (small, (1, 3, 1)), (Probe(t.subject, large), (1, 1, 2))):
            copies = max(doubled)
            got = t.subject(probe.system.repeated(*doubled))
            yield t.energy(probe, got, "repeated", copies * probe.prediction["energy"])
            yield t.other(probe, "forces", got, probe.prediction["forces"].repeat(copies, 1), "repeated")


@predicate("P12", "choice of cell")
def cell_choice(t: Trial) -> Iterator[Found]:
    """Lattice vectors replaced by integer combinations of determinant 1 or -1 change nothing."""
    for probe, draw in t.cases(periodic=True):
        change = torch.eye(3, dtype=torch.float64)[torch.randperm(3, generator=t.generator)]
        for i, j in ((0, 1), (1, 2), (2, 0))[: 1 + draw % 3]:
            change[i] += t.integers(-1, 1, 1) * change[j]
        same = System(probe.system.name, probe.system.numbers, probe.system.positions, change @ _cell(probe))
        got = t.subject(same)
        yield t.energy(probe, got, "in another cell")
        yield t.other(probe, "forces", got, probe.prediction["forces"], "in another cell")


def _cell(probe: Probe) -> Tensor:
    assert probe.system.cell is not None
    return probe.system.cell


def _with_image(system: System, matrix: Tensor) -> System:
    """A system beside its image under a matrix, with room between them."""
    aside = system.moved(torch.tensor([0.0, 0.0, 1.0 - float(system.positions[:, 2].min())], dtype=torch.float64))
    return joined(aside, aside.turned(matrix))
