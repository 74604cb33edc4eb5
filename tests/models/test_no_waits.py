"""A step of a layer or a model waits for no device: forward, forces and their training read no value on the host."""

from __future__ import annotations

import pytest
import torch

import equikern
from equikern import o3
from equikern.cli.zoo import ELEMENTS, ZOO
from equikern.graph import Graph, neighbours
from equikern.models import PaiNN, PaiNNConfig, Potential
from equikern.nn import (
    MLP,
    Convolution,
    Gate,
    MixedConvolution,
    PaiNNMessage,
    RadialConvolution,
    SchNetMessage,
    SpeciesLinear,
)
from equikern.ops.segment import softmax
from equikern.testing import NoWaits, as_on_a_device

NODES = 6
POSITIONS = 1.5 * torch.randn(NODES, 3, generator=torch.Generator().manual_seed(0))
EDGES = torch.tensor([[i, j] for i in range(NODES) for j in range(NODES) if i != j]).T.contiguous()
SPECIES = torch.tensor([0, 1, 2, 0, 1, 1])
BATCH = torch.zeros(NODES, dtype=torch.int64)
# Models that wait, and for what.
WAITING = {
    "deeppot-se": "the rows of each species, whose networks differ",
    "spherenet": "the pairs of edges that meet, found in every step",
}
IRREPS = "4x0e+4x1o", "0e+1o", "4x0e+4x1o"
PATHS = [(0, 0, 0, "uvu", True), (1, 1, 0, "uvu", True), (0, 1, 1, "uvu", True)]


def force_training(energy, *leaves):
    """Energy, its gradient and the gradient of both."""
    leaves = [t.detach().requires_grad_() for t in leaves]
    value = energy(*leaves)
    first = torch.autograd.grad(value, leaves, create_graph=True)
    (value + sum(g.square().sum() for g in first)).backward()


def check_step(step, chosen="reference"):
    """Once a graph values may be looked at; the step after that must not."""
    with equikern.backend(chosen), as_on_a_device():
        step()
        with NoWaits():
            step()


def check(energy, *leaves, chosen="reference"):
    check_step(lambda: force_training(energy, *leaves), chosen)


def layers():
    """By name: the value to be differentiated, and its tensors."""
    graph = Graph(EDGES, NODES)
    edges = graph.num_edges
    convolution, painn, schnet = Convolution(*IRREPS, PATHS), PaiNNMessage(4), SchNetMessage(4)
    network = torch.nn.Sequential(torch.nn.Unflatten(0, (-1, 1)), MLP((1, 4, convolution.weight_numel), gain=1.0))
    radial = RadialConvolution(*IRREPS, PATHS, radial=network, r_max=5.0, table=False)
    mixed = MixedConvolution(*IRREPS, 3)
    linear, product = o3.Linear(IRREPS[0], IRREPS[2]), o3.FullyConnectedTensorProduct(*IRREPS)
    species_linear = SpeciesLinear(IRREPS[0], IRREPS[2], 3)
    gate = Gate("4x0e", [torch.tanh], "4x0e", [torch.sigmoid], "4x1o")
    x, y, filters = torch.randn(NODES, 16), torch.randn(edges, 4), torch.randn(edges, 12)
    vec, w = POSITIONS[graph.sender] - POSITIONS[graph.receiver], torch.randn(3, mixed.weight_numel)

    def message(phi, mu, f, v):
        dq, dmu = painn(phi, mu, f, v, EDGES, graph)
        return torch.cat([dq, dmu.flatten(1)], 1)

    return {
        "Convolution": (lambda x, y, w: convolution(x, y, w, EDGES, graph), x, y, filters),
        "RadialConvolution": (lambda x, v: radial(x, v, EDGES, graph=graph), x, vec),
        "MixedConvolution": (lambda x, y, h, w: mixed(x, y, h, w, EDGES, graph), x, y, filters[:, :3], w),
        "SchNetMessage": (lambda h, f: schnet(h, f, EDGES, graph), x[:, :4], filters[:, :4]),
        "PaiNNMessage": (message, x[:, :12], torch.randn(NODES, 3, 4), filters, vec),
        "Linear": (linear, x),
        "TensorProduct": (product, x, torch.randn(NODES, 4)),
        "SpeciesLinear": (lambda x: species_linear(x, SPECIES), x),
        "Gate": (gate, torch.randn(NODES, 20)),
        "softmax": (lambda a: softmax(a, graph.receiver, NODES), filters),
    }


LAYERS = layers()


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_waits_for_nothing(name):
    layer, *tensors = LAYERS[name]
    check(lambda *t: layer(*t).tanh().sum(), *tensors)


@pytest.mark.parametrize("name", ["Convolution", "Linear", "TensorProduct", "SpeciesLinear", "MixedConvolution"])
def test_matrix_products_wait_for_nothing(name):
    layer, *tensors = LAYERS[name]
    check(lambda *t: layer(*t).tanh().sum(), *tensors, chosen="matmul")


def model_energy(name):
    """The energy of a model at positions, its graph made before; and what else the step reads."""
    model, graph = ZOO[name].model(), Graph(EDGES, NODES)

    def energy(positions):
        extra = {"positions": positions, "batch": BATCH} if getattr(model, "uses_positions", False) else {}
        vec = positions[graph.sender] - positions[graph.receiver]
        return model(SPECIES, vec, EDGES, graph, **extra).sum()

    return energy


@pytest.mark.parametrize("name", sorted(ZOO.keys() - WAITING))
def test_a_model_waits_for_nothing(name):
    check(model_energy(name), POSITIONS)


@pytest.mark.parametrize("name", WAITING)
def test_a_model_that_is_said_to_wait_does(name):
    with pytest.raises(AssertionError, match="would wait"):
        check(model_energy(name), POSITIONS)


def test_painns_own_forces_wait_for_nothing():
    model, graph = PaiNN(PaiNNConfig(layers=2, channels=8, hidden=4)), Graph(EDGES, NODES)

    def step():
        energy, forces = model.energy_and_forces(SPECIES, POSITIONS, EDGES, graph=graph)
        (energy.sum() + forces.square().sum()).backward()

    check_step(step)


# A crystal and a molecule, where the model takes both; a kept list, a skin beyond the cutoff.
CELLS = torch.stack([6 * torch.eye(3), torch.zeros(3, 3)])
HALVES = torch.tensor([0, 0, 0, 1, 1, 1], dtype=torch.int32)
PERIODIC = {"cell": CELLS, "pbc": [[True] * 3, [False] * 3], "batch": HALVES}


def potential_step(potential, numbers, given, *, records):
    """Evaluation where nothing is recorded, else a training step of energy, forces and stress or dipole."""
    edges = neighbours(POSITIONS, potential.cutoff + 0.5, **given)

    def step():
        with torch.set_grad_enabled(records != "nothing"):
            positions = POSITIONS.clone().requires_grad_(records == "positions")
            found = potential(numbers, positions, **given, edges=edges)
        if records != "nothing":
            sum(value.square().sum() for value in found.values()).backward()

    return step


@pytest.mark.parametrize("records", ["nothing", "parameters", "positions"])
@pytest.mark.parametrize("name", sorted(ZOO.keys() - WAITING))
def test_a_potentials_step_waits_for_nothing(name, records):
    potential, numbers = ZOO[name].potential(torch.float32), torch.tensor(ELEMENTS)[SPECIES]
    check_step(potential_step(potential, numbers, PERIODIC if ZOO[name].periodic else {}, records=records))


def test_a_potentials_dipole_waits_for_nothing():
    model = PaiNN(PaiNNConfig(layers=1, channels=8, hidden=4, num_species=3, cutoff=4.0), dipole=True)
    numbers = torch.tensor(ELEMENTS)[SPECIES]
    check_step(potential_step(Potential(model, ELEMENTS), numbers, {"batch": HALVES}, records="parameters"))


def test_potentials_take_turns_on_one_list_and_wait_for_nothing():
    numbers, edges = torch.tensor(ELEMENTS)[SPECIES], neighbours(POSITIONS, 4.0)
    potentials = [ZOO["schnet"].potential(), ZOO["schnet"].potential()]
    potentials[1].reference_energies = (-1.0, -2.0, -3.0)
    check_step(lambda: [one(numbers, POSITIONS, edges=edges) for one in potentials])
