"""Models on a CUDA device: a training step agrees with the CPU and, once it ran, waits for nothing."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path

import pytest
import torch

import equikern
from equikern.cli.zoo import ELEMENTS, ZOO
from equikern.graph import Graph, neighbours
from equikern.models import PaiNN, PaiNNConfig
from equikern.nn import force_graph
from equikern.testing import assert_close

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
_file = Path(__file__).parents[1] / "models" / "test_no_waits.py"
_spec = importlib.util.spec_from_file_location("no_waits", _file)
no_waits = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(no_waits)


def step(model, device):
    """A function that gives the gradients of energy and forces by all weights."""
    positions, edges, species, batch = (
        t.to(device) for t in (no_waits.POSITIONS, no_waits.EDGES, no_waits.SPECIES, no_waits.BATCH)
    )
    positions, model, graph = positions.double(), copy.deepcopy(model).to(device), Graph(edges, len(species))

    def run():
        p = positions.clone().requires_grad_()
        extra = {"positions": p, "batch": batch} if getattr(model, "uses_positions", False) else {}
        energy = model(species, p[graph.sender] - p[graph.receiver], edges, graph, **extra).sum()
        (gradient,) = torch.autograd.grad(energy, p, create_graph=True)
        loss = energy + gradient.square().sum()
        return [gradient.detach(), *torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)]

    return run


# Their own kernels take long to compile where layers have many shapes: those run as torch ops here.
@pytest.mark.parametrize("name", sorted(ZOO.keys() - no_waits.WAITING))
def test_a_step_agrees_with_the_cpu_and_waits_for_nothing(name):
    model = ZOO[name].model().double()
    with equikern.backend("auto" if name in ("painn", "schnet") else "reference"):
        run = step(model, "cuda")
        run()
        torch.cuda.set_sync_debug_mode("error")
        try:
            got = run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    expected = step(model, "cpu")()
    for a, b in zip(got, expected, strict=True):
        if b is not None:
            assert_close(a.cpu(), b, 1e-9, name)


def test_painns_forces_and_their_training_are_those_of_the_cpu():
    torch.manual_seed(0)
    model = PaiNN(PaiNNConfig(layers=2, channels=32, hidden=16, cutoff=4.0)).double()
    species, positions, edges = no_waits.SPECIES, no_waits.POSITIONS.double(), no_waits.EDGES
    found = []
    for device in ("cpu", "cuda"):
        here = copy.deepcopy(model).to(device)
        energy, forces = here.energy_and_forces(species.to(device), positions.to(device), edges.to(device))
        gradients = torch.autograd.grad(energy.sum() + forces.square().sum(), [*here.parameters()][:3])
        evaluated = force_graph(here, species.to(device), edges.to(device))(positions.to(device))
        found.append([energy.detach(), forces.detach(), *gradients, *evaluated])
    for got, expected in zip(found[1], found[0], strict=True):
        assert got.is_cuda
        assert_close(got, expected, 1e-9)


@pytest.mark.parametrize("name", ["painn", "schnet"])
def test_a_step_of_dynamics_replays_a_cuda_graph(name):
    """Other positions, weights written in place, and weights that are other tensors count."""
    model = ZOO[name].model().float()
    species, positions, edges = no_waits.SPECIES, no_waits.POSITIONS, no_waits.EDGES
    here = copy.deepcopy(model).cuda()
    forces_of, expected = force_graph(here, species.cuda(), edges.cuda()), force_graph(model, species, edges)
    captured = set()
    for change in (None, "move", "write", "replace"):
        for one in (model, here):
            weight = one.readout[-1].weight
            if change == "write":
                with torch.no_grad():
                    weight.mul_(1.5)
            elif change == "replace":
                weight.data = 0.5 * weight.data
        if change == "move":
            positions = positions + 0.05
            positions[0] += 0.1
        got = forces_of(positions.float().cuda())
        for a, b in zip(got, expected(positions.float()), strict=True):
            assert_close(a.cpu(), b, 1e-4, f"{name} {change}")
        captured.add(id(forces_of._captured.graph))
        assert forces_of._captured.inputs, "it was captured"
    assert len(captured) == 2


def potential_step(name, device):
    """Positions, and the properties there of a crystal and a molecule, by a kept list."""
    tensors = torch.tensor(ELEMENTS)[no_waits.SPECIES], no_waits.POSITIONS.double(), no_waits.CELLS, no_waits.HALVES
    numbers, positions, cells, batch = (t.to(device) for t in tensors)
    potential = ZOO[name].potential().to(device)
    edges = neighbours(positions, potential.cutoff + 0.5, cells, batch=batch)
    return positions, lambda: potential(numbers, positions, cells, batch=batch, edges=edges)


@pytest.mark.parametrize("name", ["painn", "schnet"])
def test_a_potentials_step_agrees_with_the_cpu_waits_for_nothing_and_fits_in_a_cuda_graph(name):
    positions, run = potential_step(name, "cuda")
    there, expected = potential_step(name, "cpu")
    run()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = run()
        sum(value.square().sum() for value in found.values()).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for key, value in expected().items():
        assert_close(found[key].detach().cpu(), value.detach(), 1e-9, f"{name} {key}")
    with torch.no_grad():
        run()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = run()
        for at in (positions, there):
            at.add_(0.02 * at.square())
        graph.replay()
        for key, value in expected().items():
            assert_close(captured[key].cpu(), value, 1e-9, f"{name} {key} replayed")
        positions[2] = positions[1]
        graph.replay()
        assert all(captured[key][0].isnan().all() and captured[key][-1].isfinite().all() for key in captured)


def test_a_step_that_waits_runs_as_it_is():
    model = ZOO["spherenet"].model().cuda().float()
    forces_of = force_graph(model, no_waits.SPECIES.cuda(), no_waits.EDGES.cuda())
    with pytest.warns(UserWarning, match="cannot be captured"):
        energy, forces = forces_of(no_waits.POSITIONS.float().cuda())
    assert energy.isfinite() and forces.isfinite().all()
