"""PaiNN (128 channels, 3 layers) as one op against eager torch: energy and forces, and a training step's gradients.

9 atoms are a molecule's size, 1000 atoms have 40 edges each. The rival is written as users write it (baselines.py). A
training step is energy, forces, a loss of both and the gradients of all weights; no optimizer, which is the same for
all. `force_graph` packs the weights once, the training step at every call. Edges are within the cutoff, the graph is
sorted once for all steps: an MD code keeps its neighbour list for many.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import painn
import pytest
import torch
from timing import alternate
from torch import Tensor

from equikern.graph import Graph
from equikern.nn import force_graph

ATOMS = (9, 1000)
Step = Callable[[], Any]


def of_positions(energy: Callable[[Tensor], Tensor], positions: Tensor, create_graph: bool = False) -> tuple[Any, Any]:
    """Energy and forces by autograd."""
    x = positions.detach().requires_grad_()
    e = energy(x)
    return e, -torch.autograd.grad(e, x, create_graph=create_graph)[0]


def loss(energy: Tensor, forces: Tensor, target: Tensor) -> Tensor:
    """Of energy and forces."""
    return energy.sum().square() + (forces - target).square().sum()


@pytest.mark.parametrize("atoms", ATOMS)
@pytest.mark.parametrize("step", ["energy and forces", "energy and forces, frozen", "training gradients"])
def test_painn(benchmark: Any, atoms: int, step: str) -> None:
    model, eager = painn.eager_twin()
    species, positions, edges = painn.system(atoms)
    graph, target = Graph(edges, len(species)), torch.randn(positions.shape)
    model.requires_grad_("frozen" not in step)
    eager.requires_grad_("frozen" not in step)
    layers = lambda x: model(species, x[edges[0]] - x[edges[1]], edges, graph).sum()  # noqa: E731
    plain = lambda x: eager(species, x, edges)  # noqa: E731
    forces_of = force_graph(model, species, edges)
    if step == "training gradients":
        ours, (eagerly, by_layers) = trainers(model, eager, (species, positions, edges, graph), target, layers)
    else:
        ours = lambda: forces_of(positions)  # noqa: E731
        eagerly, by_layers = (lambda f=f: of_positions(f, positions) for f in (plain, layers))
    found, expected = ours(), eagerly()
    for a, b in zip(found, expected, strict=True):
        assert (a.detach() - b.detach()).norm() < 1e-3 * b.detach().norm(), f"{step} disagrees; it is not timed"
    count = painn.flops(len(species), edges.shape[1]) * (1 if "forces" in step else 3)
    benchmark.group = f"painn {atoms} {step}"
    extra = {"edges an atom": edges.shape[1] / atoms}
    benchmark.extra_info.update(case="PaiNN 128x3", edges=atoms, unit="atom", step=step, flops=count, extra=extra)
    alternate(benchmark, ours, {"eager torch": eagerly, "equikern's layers": by_layers})


def trainers(model: Any, eager: Any, given: Any, target: Tensor, layers: Any) -> tuple[Step, tuple[Step, Step]]:
    """Steps that return gradients of weights which all have in common: ours, the eager and the layered."""
    species, positions, edges, graph = given

    def gradients(module: Any, energy_forces: tuple[Tensor, Tensor], shared: list[Tensor]) -> list[Tensor]:
        module.zero_grad()
        loss(*energy_forces, target).backward()
        return [w.grad for w in shared if w.grad is not None]

    mine = [model.embedding.weight, *model.readout.parameters()]
    theirs = [eager.embed.weight, *eager.readout.parameters()]
    plain = lambda x: eager(species, x, edges)  # noqa: E731
    return (
        lambda: gradients(model, model.energy_and_forces(species, positions, edges, graph=graph), mine),
        (
            lambda: gradients(eager, of_positions(plain, positions, True), theirs),
            lambda: gradients(model, of_positions(layers, positions, True), mine),
        ),
    )
