"""Whole potentials, accelerated and as they are: energy with forces, and one step of force training, of crystals.

Rattled copper of 32 and 108 atoms; one structure a step. The weights of SevenNet are trained ones, those of NequIP
random. A training step takes the gradients of a loss of energy and forces and changes the parameters; ours has tables
in training too (`accelerate(model, tables="always")`). `models.NequIP` is our own model with the weights of nequip's.
Models of ours whose public code is not at hand run against themselves on the reference backend, in plain torch, on a
cluster of 32 atoms.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import ase.build
import pytest
import torch
from own import Cluster, Own, own_results
from timing import alternate
from torch import Tensor

import equikern
from equikern import models
from equikern.interop import from_nequip
from equikern.testing import potentials

TOLERANCE = 1e-4  # of forces in float32, over the largest; conformance is tested elsewhere


class Potential(NamedTuple):
    """A model, its input of atoms, and energy and forces of what it returns."""

    model: torch.nn.Module
    given: Callable[[Any], Any]
    results: Callable[[Any], tuple[Tensor, Tensor]]


def sevennet(name: str) -> Potential:
    """A trained SevenNet."""
    model = potentials.sevennet(name)
    return Potential(
        model,
        lambda atoms: potentials.sevennet_input(atoms, model),
        lambda out: (out["inferred_total_energy"], out["inferred_force"]),
    )


def nequip() -> Potential:
    """NequIP, 64 channels, l <= 2, 4 layers, r_max 5 A."""
    pytest.importorskip("nequip", reason="nequip is not installed")
    return Potential(
        potentials.nequip(["Cu"]),
        lambda atoms: potentials.nequip_input(atoms, ["Cu"]),
        lambda out: (out["total_energy"], out["forces"]),
    )


MODELS: dict[str, Callable[[], Potential]] = {
    "SevenNet-0": lambda: sevennet("7net-0"),
    "SevenNet-l3i5": lambda: sevennet("7net-l3i5"),
    "NequIP": nequip,
}


@cache
def potential(name: str) -> Potential:
    """Built once; libraries warn about the machine."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return MODELS[name]()


@cache
def crystal(repeat: int) -> Any:
    """Rattled copper of 4 repeat^3 atoms."""
    atoms = ase.build.bulk("Cu", cubic=True) * (repeat, repeat, repeat)
    atoms.rattle(0.1, seed=0)
    return atoms


class Rival(NamedTuple):
    """A model with its input, and energy and forces of what it returns."""

    model: torch.nn.Module
    given: Any
    results: Callable[[Any], tuple[Tensor, Tensor]]


def fresh(given: Any) -> Any:
    """The input as if it was new: models write into it."""
    return dict(given) if isinstance(given, dict) else given.clone()


def training_step(model: torch.nn.Module, given: Any, results: Callable[[Any], tuple[Tensor, Tensor]]) -> None:
    """Gradients of a loss of energy and forces, and a small change of the parameters."""
    energy, forces = results(model(fresh(given)))
    (forces.square().mean() + 1e-4 * energy.square().mean()).backward()
    with torch.no_grad():
        for p in model.parameters():
            if p.grad is not None:
                p -= 1e-6 * p.grad.sign()  # tables are made anew
                p.grad = None


OWN: dict[str, tuple[str, Callable[[Any], Any]]] = {"models.NequIP": ("NequIP", from_nequip)}


def race(benchmark: Any, name: str, step: str, ours: Rival, theirs: Rival, atoms: Any, rival: str = "as it is") -> None:
    """Time ours against theirs, once their forces agree in evaluation."""
    ours.model.eval(), theirs.model.eval()
    expected, got = (one.results(one.model(fresh(one.given)))[1].detach() for one in (theirs, ours))
    error = float((got - expected).abs().max() / expected.abs().max())
    assert error < TOLERANCE, f"forces of {name} differ by {error:.1e}; it is not timed"

    def run(one: Rival) -> Callable[[], Any]:
        if step == "training step":
            one.model.train()
            return lambda: training_step(one.model, one.given, one.results)
        return lambda: one.model(fresh(one.given))

    edges = theirs.given["edge_index"].shape[1] if "edge_index" in theirs.given else ours.model.edges
    benchmark.group = f"models {name} {len(atoms)} atoms {step}"
    benchmark.extra_info.update(
        case=f"{name}, {edges} edges", edges=len(atoms), unit="atom", step=step, error=error, skipped={},
    )  # fmt: skip
    alternate(benchmark, run(ours), {rival: run(theirs)})


@pytest.mark.parametrize("step", ["energy+forces", "training step"])
@pytest.mark.parametrize("repeat", [2, 3])
@pytest.mark.parametrize("name", [*MODELS, *OWN])
def test_models(benchmark: Any, name: str, repeat: int, step: str) -> None:
    if (name, repeat, step) == ("SevenNet-l3i5", 3, "training step"):
        pytest.skip("its own step takes half a minute and 8 GB")
    public, load = OWN.get(name, (name, None))
    kind, atoms = potential(public), crystal(repeat)
    given = kind.given(atoms)
    theirs = Rival(copy.deepcopy(kind.model), given, kind.results)
    if load is None:
        ours = theirs._replace(model=equikern.accelerate(copy.deepcopy(kind.model), tables="always"))
    else:
        own = Own(load(kind.model))
        ours = Rival(own, own.given(atoms), own_results)
    race(benchmark, name, step, ours, theirs, atoms)


# As their papers have them, for one element and a cutoff of 4 A.
ZOO: dict[str, Callable[[], torch.nn.Module]] = {
    "models.SchNet": lambda: models.SchNet(models.SchNetConfig(cutoff=4.0, num_species=1)),
    "models.DeepPotSE": lambda: models.DeepPotSE(models.DeepPotSEConfig(4.0, slots=(40,))),
    "models.PaiNN": lambda: models.PaiNN(models.PaiNNConfig(cutoff=4.0, num_species=1)),
    "models.TFN": lambda: models.TFN(models.TFNConfig(cutoff=4.0, num_species=1)),
    "models.SE3Transformer": lambda: models.SE3Transformer(models.SE3TransformerConfig(cutoff=4.0, num_species=1)),
    "models.LEFTNet": lambda: models.LEFTNet(models.LEFTNetConfig(cutoff=4.0, num_species=1)),
    "models.SphereNet": lambda: models.SphereNet(models.SphereNetConfig(cutoff=4.0, num_species=1)),
}


@pytest.mark.parametrize("step", ["energy+forces", "training step"])
@pytest.mark.parametrize("name", ZOO)
def test_own_models(benchmark: Any, name: str, step: str) -> None:
    torch.manual_seed(0)
    atoms = crystal(2)
    potential = models.Potential(ZOO[name](), [29])
    rivals = [Cluster(copy.deepcopy(potential), backend) for backend in ("auto", "reference")]
    ours, theirs = (Rival(one, one.given(atoms), own_results) for one in rivals)
    race(benchmark, name, step, ours, theirs, atoms, "reference backend")
