"""MACE, accelerated and as it is: energy with forces, and one step of force training, of rattled rock salt.

ScaleShiftMACE with 128x0e+128x1o, 2 layers, l <= 3, correlation 3, r_max 5 A and random weights, in float32. Training
reads tables too (`tables="always"`). `models.MACE` is our own model with the same weights. mace-torch needs e3nn 0.4.4:
`make bench BENCH=bench/test_mace.py BENCH_PY=.venv-e3nn04/bin/python`.
"""

from __future__ import annotations

import copy
import warnings
from functools import cache
from typing import Any

import pytest
import torch
from own import Own, own_results
from test_models import Rival, race
from torch import Tensor

import equikern
from equikern.interop import from_mace
from equikern.testing import potentials

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


class Public(torch.nn.Module):
    """The model as dynamics calls it, and in training as its training does."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, given: dict[str, Tensor]) -> dict[str, Tensor]:
        """Energy and forces, that can be differentiated in training."""
        return self.model(given, training=self.training, compute_force=True)  # type: ignore[no-any-return]


def results(out: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Energy and forces."""
    return out["interaction_energy"], out["forces"]


@pytest.mark.parametrize("step", ["energy+forces", "training step"])
@pytest.mark.parametrize("repeat", [2, 3])
@pytest.mark.parametrize("name", ["MACE", "models.MACE"])
def test_mace(benchmark: Any, name: str, repeat: int, step: str) -> None:
    atoms = crystal(repeat)
    theirs = Rival(Public(copy.deepcopy(model())), potentials.mace_input(atoms, NUMBERS), results)
    if name == "MACE":
        ours = theirs._replace(model=Public(equikern.accelerate(copy.deepcopy(model()), tables="always")))
    else:
        own = Own(from_mace(model()))
        ours = Rival(own, own.given(atoms), own_results)
    race(benchmark, name, step, ours, theirs, atoms)
