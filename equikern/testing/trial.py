"""What predicates are made of: the potential under examination, its probes, the tolerances, the results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from equikern.testing.systems import System, systems

Prediction = Mapping[str, Tensor]
Found = tuple[float, float, str]  # error, tolerance, where

DRAWS = 5
# Allowed errors of energies, relative to max(1, spread of the energy), then of all else, relative to its largest
# magnitude. float64 first, float32 second; None: rounding drowns it.
STANDARD = ((1e-12, 1e-10), (5e-5, 5e-5))
TOLERANCES: dict[str, tuple[tuple[float, float], tuple[float, float] | None]] = {
    "P9": ((1e-12, 1e-10), (5e-5, 1e-4)),
    "P11": ((1e-11, 1e-10), (1e-5, 5e-5)),
    "P12": ((1e-11, 1e-10), (1e-5, 5e-5)),
    "P13": ((1e-6, 1e-6), None),
    "P14": ((1e-10, 1e-10), (1e-4, 1e-4)),
    "P15": ((1e-12, 1e-10), None),
    "P19": ((1e-12, 1e-12), (1e-5, 1e-5)),
}


class DoesNotApply(Exception):
    """Why a predicate says nothing about a potential."""


@dataclass(frozen=True)
class Subject:
    """What is examined: `predict`, the elements it knows, and what some predicates need besides.

    dtype is the potential's precision, which tolerances are for, and that of the positions and cells that it is given,
    unless it takes `exact_positions`, float64. cutoff (angstrom) and layers (of messages) say how far an atom sees;
    `periodic` is whether cells are defined.
    features(numbers, positions) returns (irreps, tensor (N, dim) in the layout mul_ir) of every hidden block;
    batch(list of (numbers, positions, cell)) a prediction each; shuffled(numbers, positions, cell, seed) the
    prediction with the edges in another order.
    """

    predict: Callable[..., Prediction]
    elements: Sequence[int]
    dtype: torch.dtype = torch.float64
    exact_positions: bool = False
    cutoff: float | None = None
    layers: int | None = None
    periodic: bool = True
    features: Callable[[Tensor, Tensor], Sequence[tuple[str, Tensor]]] | None = None
    batch: Callable[[list[tuple[Tensor, Tensor, Tensor | None]]], Sequence[Prediction]] | None = None
    shuffled: Callable[[Tensor, Tensor, Tensor | None, int], Prediction] | None = None

    def __call__(self, system: System) -> dict[str, Tensor]:
        """The prediction, in float64."""
        return widened(self.predict(*self.arguments(system)))

    def many(self, given: Sequence[System]) -> list[dict[str, Tensor]]:
        """Predictions of many systems that differ little: as one batch, where batches are given."""
        if self.batch is None:
            return [self(system) for system in given]
        return [widened(found) for found in self.batch([self.arguments(system) for system in given])]

    def arguments(self, system: System) -> tuple[Tensor, Tensor, Tensor | None]:
        """numbers, positions and cell as `predict` takes them."""
        dtype = torch.float64 if self.exact_positions else self.dtype
        cell = None if system.cell is None else system.cell.to(dtype)
        return system.numbers, system.positions.to(dtype), cell


def widened(prediction: Prediction) -> dict[str, Tensor]:
    """Detached and in float64, on the CPU."""
    return {key: torch.as_tensor(value).detach().to("cpu", torch.float64) for key, value in prediction.items()}


@dataclass(frozen=True)
class Result:
    """What a predicate found: `holds` is None where it does not apply; `where` names the worst case, or the reason.

    error and tolerance are those of the worst case, relative as `TOLERANCES` says.
    """

    id: str
    name: str
    holds: bool | None
    error: float
    tolerance: float
    where: str

    def __str__(self) -> str:
        if self.holds is None:
            return f"{self.id} {self.name}: does not apply, {self.where}"
        verdict = "holds" if self.holds else "FAILS"
        return f"{self.id} {self.name}: {verdict}, error {self.error:.1e}, allowed {self.tolerance:.1e}, {self.where}"

    def check(self, holds: bool | None = True) -> None:
        """Raise AssertionError unless the predicate came out as said: True, False, or None for does not apply."""
        if self.holds is not holds:
            expected = {True: "hold", False: "fail", None: "not apply"}[holds]
            raise AssertionError(f"{self}\n  expected: {self.id} to {expected}")


@dataclass
class Probe:
    """A system with what is predicted for it, and the magnitudes that errors are relative to."""

    subject: Subject
    system: System
    seed: int = 0

    @cached_property
    def prediction(self) -> dict[str, Tensor]:
        """Of the system as it is."""
        return self.subject(self.system)

    @cached_property
    def frames(self) -> Tensor:
        """Energies (6,) of the system and of rattled copies."""
        generator = torch.Generator().manual_seed(self.seed)
        rattled = self.subject.many([self.system.rattled(0.1, generator) for _ in range(5)])
        return torch.stack([p["energy"].reshape(()) for p in (self.prediction, *rattled)])

    @property
    def energy_scale(self) -> float:
        """max(1, the largest energy of the frames once their mean, an offset, is removed)."""
        return max(1.0, float((self.frames - self.frames.mean()).abs().max()))

    def energy_error(self, got: Tensor, expected: Tensor | None = None) -> float:
        """|got - expected| less what storing such energies costs, relative to the scale."""
        expected = self.prediction["energy"] if expected is None else expected
        stored = 2 * torch.finfo(self.subject.dtype).eps * float(expected.abs())
        return finite(max(0.0, finite(float((got - expected).abs())) - stored) / self.energy_scale)

    def largest(self, key: str) -> float:
        """The largest magnitude of a quantity in the system."""
        return float(self.prediction[key].abs().max())


def finite(error: float) -> float:
    """The error, infinite where it is not a number."""
    return error if error < float("inf") else float("inf")


def relative(got: Tensor, expected: Tensor, scale: float) -> float:
    """max |got - expected| / scale; infinite for shapes that differ and for what is not finite."""
    if got.shape != expected.shape:
        return float("inf")
    error = float((got - expected).abs().max()) if got.numel() else 0.0
    return finite(error / scale if scale else float("inf")) if error else 0.0


@dataclass
class Trial:
    """One run of one predicate: its probes, its random numbers, its tolerances."""

    id: str
    subject: Subject
    probes: list[Probe]
    generator: torch.Generator

    @cached_property
    def tolerances(self) -> tuple[float, float]:
        """Of energies, and of all else."""
        by_dtype = TOLERANCES.get(self.id, STANDARD)[self.subject.dtype != torch.float64]
        if by_dtype is None:
            raise DoesNotApply("finite differences need float64")
        return by_dtype

    def normal(self, *shape: int) -> Tensor:
        """Normal deviates in float64."""
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Integers from low to high, both included, in float64."""
        return torch.randint(low, high + 1, shape, generator=self.generator).double()

    def rotation(self, det: int = 1) -> Tensor:
        """A uniform element (3, 3) of O(3) with this determinant."""
        q, r = torch.linalg.qr(self.normal(3, 3))
        q = q * r.diagonal().sign()
        return det * q * torch.linalg.det(q).sign()

    def some(self, periodic: bool | None = None) -> list[Probe]:
        """Every probe, periodic ones only, or finite ones only."""
        fitting = [p for p in self.probes if periodic is None or (p.system.cell is not None) is periodic]
        if not fitting:
            kind = {None: "", True: "periodic ", False: "finite "}[periodic]
            raise DoesNotApply(f"no {kind}system is defined for this potential")
        return fitting

    def cases(self, periodic: bool | None = None) -> Iterator[tuple[Probe, int]]:
        """`some`, `DRAWS` times each, numbered."""
        yield from ((probe, draw) for probe in self.some(periodic) for draw in range(DRAWS))

    def has(self, key: str, periodic: bool | None = None) -> None:
        """Does not apply to a potential whose predictions have no such key."""
        if any(key not in p.prediction for p in self.some(periodic)):
            raise DoesNotApply(f"predictions have no {key!r}")

    def energy(self, probe: Probe, got: Prediction, what: str, expected: Tensor | None = None) -> Found:
        """The energy against the probe's, or against another."""
        where = f"energy of {probe.system.name} {what}"
        return probe.energy_error(got["energy"], expected), self.tolerances[0], where

    def other(self, probe: Probe, key: str, got: Prediction, expected: Tensor, what: str) -> Found:
        """Another quantity against what is expected, relative to its magnitude in the system.

        What a symmetric system may lack, such as a dipole, is relative to its largest magnitude in any system.
        """
        probes = [probe] if key == "forces" else [p for p in (probe, *self.probes) if key in p.prediction]
        error = relative(got[key], expected, max(p.largest(key) for p in probes))
        return error, self.tolerances[1], f"{key} of {probe.system.name} {what}"


@dataclass(frozen=True)
class Predicate:
    """A property: it holds if no error that `find` yields exceeds its tolerance."""

    id: str
    name: str
    find: Callable[[Trial], Iterator[Found]]

    def __call__(self, subject: Subject, on: Sequence[System] | Sequence[Probe] | None = None, seed: int = 0) -> Result:
        """Look at a subject on these systems, or on the standard ones of its elements."""
        generator = torch.Generator().manual_seed(1000 * seed + int(self.id[1:]))
        trial = Trial(self.id, subject, probed(subject, on, seed), generator)
        try:
            error, tolerance, where = max(self.find(trial), key=lambda found: finite(found[0] / found[1]))
        except DoesNotApply as reason:
            return Result(self.id, self.name, None, 0.0, 0.0, str(reason))
        return Result(self.id, self.name, error <= tolerance, error, tolerance, where)


def predicate(id: str, name: str) -> Callable[[Callable[[Trial], Iterator[Found]]], Predicate]:
    """Make a predicate of a generator of (error, tolerance, where)."""
    return lambda find: Predicate(id, name, find)


def probed(subject: Subject, on: Sequence[System] | Sequence[Probe] | None, seed: int) -> list[Probe]:
    """Probes of the systems given, or of the standard ones of the subject's elements."""
    chosen: Sequence[Any] = systems(subject.elements, seed, subject.cutoff or 5.0) if on is None else on
    made = [s if isinstance(s, Probe) else Probe(subject, s, seed) for s in chosen]
    return [p for p in made if subject.periodic or p.system.cell is None]
