"""Whether predictions agree with one another: derivatives, smoothness, locality, size, batches. P13 to P20."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from equikern.testing.systems import System, chain, degenerate, joined
from equikern.testing.trial import DoesNotApply, Found, Probe, Trial, finite, predicate, widened


@predicate("P13", "gradient")
def gradient(t: Trial) -> Iterator[Found]:
    """Forces and stress are derivatives of the energy: differences of fourth order, 1e-4 angstrom, a strain of 1e-5."""
    tolerance = t.tolerances[0]
    for probe in t.probes:
        slopes = [*_along_atoms(t, probe), *_along_strains(probe)]
        energies = t.subject.many([s.at(n) for s in slopes for n in (-2, -1, 1, 2)])
        stencils = torch.stack([p["energy"].reshape(()) for p in energies]).reshape(-1, 4)
        found = stencils @ torch.tensor([1.0, -8.0, 8.0, -1.0], dtype=torch.float64) / 12
        for slope, difference in zip(slopes, found.tolist(), strict=True):
            error = abs(difference / slope.step - slope.expected) / max(1.0, slope.largest)
            yield finite(error), tolerance, slope.where


class Slope(NamedTuple):
    """A derivative of the energy: the system n steps along, what is expected, and the largest of its kind."""

    where: str
    at: Callable[[int], System]
    step: float
    expected: float
    largest: float


def _along_atoms(t: Trial, probe: Probe) -> Iterator[Slope]:
    forces, step = probe.prediction["forces"], 1e-4
    for k in torch.randperm(forces.numel(), generator=t.generator)[:8].tolist():
        along = torch.zeros_like(forces)
        along.view(-1)[k] = step
        where = f"force on atom {k // 3} of {probe.system.name}, along {'xyz'[k % 3]}"
        yield Slope(where, _moving(probe, along), step, -float(forces.view(-1)[k]), probe.largest("forces"))


def _along_strains(probe: Probe) -> Iterator[Slope]:
    cell, step = probe.system.cell, 1e-5
    if cell is None or "stress" not in probe.prediction:
        return
    strained = probe.prediction["stress"] * torch.linalg.det(cell).abs()
    one = torch.eye(3, dtype=torch.float64)
    for i, j in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)):
        strain = step * (one[i].outer(one[j]) + one[j].outer(one[i])) / 2
        where = f"stress {'xyz'[i]}{'xyz'[j]} of {probe.system.name}"
        yield Slope(where, _straining(probe, strain), step, float(strained[i, j]), float(strained.abs().max()))


def _moving(probe: Probe, along: Tensor) -> Callable[[int], System]:
    return lambda n: probe.system.moved(n * along)


def _straining(probe: Probe, strain: Tensor) -> Callable[[int], System]:
    return lambda n: probe.system.turned(torch.eye(3, dtype=torch.float64) + n * strain)


@predicate("P14", "sums")
def sums(t: Trial) -> Iterator[Found]:
    """No net force; no net torque on a finite system."""
    for probe in t.probes:
        x, forces = probe.system.positions, probe.prediction["forces"]
        net = float(forces.sum(0).abs().max()) / max(1.0, float(forces.abs().max()))
        yield finite(net), t.tolerances[1], f"net force on {probe.system.name}"
        if probe.system.cell is None:
            torques = torch.linalg.cross(x - x.mean(0), forces)
            net = float(torques.sum(0).abs().max()) / max(1.0, float(torques.abs().max()))
            yield finite(net), t.tolerances[1], f"net torque on {probe.system.name}"


@predicate("P15", "smoothness")
def smoothness(t: Trial) -> Iterator[Found]:
    """A pair parts at the cutoff, beside a third atom, in 200 steps of 1e-6 angstrom: E has no kink, F no step.

    At the crossing, second differences of E and first differences of F are at most ten times their median elsewhere,
    plus a tolerance. A kink of F is let pass: the cosine cutoff has one.
    """
    (tolerance_e, tolerance_f), cutoff = t.tolerances, _cutoff(t)
    first, second, turn = t.subject.elements[0], t.subject.elements[-1], t.rotation()
    numbers, pair = torch.tensor([first, second, first]), []
    for step in range(-100, 101):
        far = cutoff + 1e-6 * step
        x = torch.tensor([[0, 0, 0], [far, 0, 0], [-0.4 * cutoff, 0.2 * cutoff, 0]], dtype=torch.float64)
        pair.append(System("pair", numbers, x @ turn.T))
    found = t.subject.many(pair)
    energies = torch.stack([p["energy"].reshape(()) for p in found])
    forces = torch.stack([p["forces"] for p in found])
    scale_e, scale_f = max(1.0, float(energies.abs().max())), float(forces.abs().max())
    bends = energies.diff(n=2).abs() / scale_e
    steps = forces.diff(dim=0).abs().amax((1, 2)) / scale_f
    where = f"where {first} and {second} part at the cutoff"
    both = (("second difference of E", bends, tolerance_e), ("step of F", steps, 10 * tolerance_f))
    for what, change, tolerance in both:
        yield finite(float(change[97:102].max())), 10 * float(change[:95].median()) + tolerance, f"{what} {where}"


@predicate("P16", "locality")
def locality(t: Trial) -> Iterator[Found]:
    """The end of a chain moves: atoms beyond layers x cutoff keep their energies, beyond twice that their forces."""
    if t.subject.layers is None:
        raise DoesNotApply("the number of layers is not known")
    reach = t.subject.layers * _cutoff(t)
    by_key = {"energies": reach, "forces": 2 * reach} if "energies" in t.probes[0].prediction else {"forces": 2 * reach}
    for key, length in by_key.items():
        probe = Probe(t.subject, chain(t.subject.elements, 0.45 * _cutoff(t), 1.01 * length))
        end = torch.zeros_like(probe.system.positions)
        end[-1] = 0.1 * _cutoff(t) * torch.tensor([1.0, 0.5, -0.5])
        got = t.subject(probe.system.moved(end))
        if torch.equal(got["forces"], probe.prediction["forces"]):
            yield float("inf"), 1.0, "the end moves and no force changes"
        near, far = probe.prediction[key][:1], got[key][:1]
        yield t.other(probe, key, {key: far}, near, f"at the start, {length:.0f} angstrom from the end")


@predicate("P17", "size consistency")
def size_consistency(t: Trial) -> Iterator[Found]:
    """Two copies more than two cutoffs apart have twice the energy."""
    for probe in t.some(periodic=False):
        x = probe.system.positions
        away = torch.zeros(3, dtype=torch.float64)
        away[0] = 2 * _cutoff(t) + 1 + float((x.amax(0) - x.amin(0)).max())
        got = t.subject(joined(probe.system, probe.system.moved(away)))
        yield t.energy(probe, got, "twice", 2 * probe.prediction["energy"])
        yield t.other(probe, "forces", got, probe.prediction["forces"].repeat(2, 1), "twice")


@predicate("P18", "batching")
def batching(t: Trial) -> Iterator[Found]:
    """Systems in a batch, one of them twice, are as alone."""
    if t.subject.batch is None:
        raise DoesNotApply("batches are not given")
    probes = [*t.probes, t.probes[0]]
    found = t.subject.batch([t.subject.arguments(p.system) for p in probes])
    for probe, prediction in zip(probes, found, strict=True):
        got = widened(prediction)
        yield t.energy(probe, got, "in a batch")
        yield t.other(probe, "forces", got, probe.prediction["forces"], "in a batch")


@predicate("P19", "order of edges")
def edge_order(t: Trial) -> Iterator[Found]:
    """Edges in another order change no more than rounding does."""
    if t.subject.shuffled is None:
        raise DoesNotApply("the order of edges cannot be set")
    for probe, draw in t.cases():
        got = widened(t.subject.shuffled(*t.subject.arguments(probe.system), draw))
        yield t.energy(probe, got, "with shuffled edges")
        yield t.other(probe, "forces", got, probe.prediction["forces"], "with shuffled edges")


@predicate("P20", "degenerate input")
def degenerate_input(t: Trial) -> Iterator[Found]:
    """One atom, two, three on a line, coincident directions, a planar ring: all finite."""
    for system in degenerate(t.subject.elements):
        got = t.subject(system)
        good = all(bool(v.isfinite().all()) for v in got.values()) and got["forces"].shape == (len(system), 3)
        yield (0.0 if good else float("inf")), 1.0, system.name


def _cutoff(t: Trial) -> float:
    if t.subject.cutoff is None:
        raise DoesNotApply("the cutoff is not known")
    return t.subject.cutoff
