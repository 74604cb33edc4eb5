"""MACE, accelerated and as it is: energy with forces, and one step of force training, of rattled rock salt.

ScaleShiftMACE with 128x0e+128x1o, 2 layers, l <= 3, correlation 3, r_max 5 A and random weights, in float32. Training
reads tables too (`tables="always"`). MACE needs e3nn 0.4.4: `make bench BENCH=bench/test_mace.py
BENCH_PY=.venv-e3nn04/bin/python`.
"""

from __future__ import annotations

import copy
import warnings
from functools import cache
from typing import Any

import pytest
import torch
from test_models import training_step
from timing import alternate
from torch import Tensor

import equikern
from equikern.testing import potentials

TOLERANCE = 1e-4  # of forces in float32, over the largest; conformance is tested elsewhere
NUMBERS = [11, 17]

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("mace.modules", reason="mace-torch is not installed (it needs e3nn 0.4.4)")
build = pytest.importorskip("ase.build", reason="ase is not installed")


@cache
def model() -> torch.nn.Module:
    """Built once; the library warns about what it does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return potentials.mace(NUMBERS)


@cache
def crystal(repeat: int) -> Any:
    """Rattled rock salt of 8 repeat^3 atoms."""
    atoms = build.bulk("NaCl", "rocksalt", a=5.64, cubic=True) * (repeat, repeat, repeat)
    atoms.rattle(0.1, seed=0)
    return atoms


def results(out: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Energy and forces."""
    return out["interaction_energy"], out["forces"]


def evaluation(model: torch.nn.Module, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """One call as in dynamics."""
    return model(dict(given), compute_force=True)  # type: ignore[no-any-return]


class Training(torch.nn.Module):
    """The model as its training calls it."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, given: dict[str, Tensor]) -> dict[str, Tensor]:
        """Energy and forces that can be differentiated."""
        return self.model(given, training=True)  # type: ignore[no-any-return]


@pytest.mark.parametrize("step", ["energy+forces", "training step"])
@pytest.mark.parametrize("repeat", [2, 3])
def test_mace(benchmark: Any, repeat: int, step: str) -> None:
    atoms = crystal(repeat)
    theirs, ours = copy.deepcopy(model()), equikern.accelerate(copy.deepcopy(model()), tables="always")
    given = potentials.mace_input(atoms, NUMBERS)
    expected, got = (evaluation(m, given)["forces"] for m in (theirs, ours))
    error = float((got - expected).abs().max() / expected.abs().max())
    assert error < TOLERANCE, f"forces differ by {error:.1e}; it is not timed"
    if step == "training step":
        run = {id(m): (lambda m=Training(m.train()): training_step(m, given, results)) for m in (theirs, ours)}
    else:
        run = {id(m): (lambda m=m: evaluation(m, given)) for m in (theirs, ours)}
    edges = given["edge_index"].shape[1]
    benchmark.group = f"models MACE {len(atoms)} atoms {step}"
    benchmark.extra_info.update(
        case=f"MACE, {edges} edges", edges=len(atoms), unit="atom", step=step, error=error, skipped={},
    )  # fmt: skip
    alternate(benchmark, run[id(ours)], {"as it is": run[id(theirs)]})
