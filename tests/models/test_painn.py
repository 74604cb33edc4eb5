"""PaiNN's layers and PaiNN as one op are one function; its symmetries; what a step costs in calls."""

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from equikern.errors import BackendError, EquikernError, ShapeError
from equikern.graph import Graph
from equikern.models import PaiNN, PaiNNConfig, Potential

SMALL = PaiNNConfig(3, 8, 4, "gaussian", 10, 5, 3.0)
BESSEL = PaiNNConfig(2, 6, 3, "bessel", 8, 5, 3.0)


def molecule(atoms=9, dtype=torch.float64, seed=0):
    """species, positions, edges of a cluster, all pairs."""
    generator = torch.Generator().manual_seed(seed)
    positions = torch.rand(atoms, 3, generator=generator, dtype=torch.float64) * 3
    edges = (~torch.eye(atoms, dtype=torch.bool)).nonzero().T.contiguous()
    return torch.randint(5, (atoms,), generator=generator), positions.to(dtype), edges


def by_layers(model, species, positions, edges, create_graph=False):
    """Energy and forces of the layers, by autograd."""
    positions = positions.detach().clone().requires_grad_()
    energy = model(species, positions[edges[0]] - positions[edges[1]], edges).sum()
    return energy, -torch.autograd.grad(energy, positions, create_graph=create_graph)[0]


@pytest.mark.parametrize("config", [SMALL, BESSEL])
def test_the_op_and_the_layers_agree_on_energy_and_forces(config):
    model = PaiNN(config).double()
    given = molecule()
    energy, forces = model.energy_and_forces(*given)
    expected, expected_forces = by_layers(model, *given)
    torch.testing.assert_close(energy[0], expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(forces, expected_forces, rtol=1e-10, atol=1e-12)
    assert forces.norm() > 1e-3


@pytest.mark.parametrize("config", [SMALL, BESSEL])
def test_the_op_and_the_layers_train_alike(config):
    model = PaiNN(config).double()
    given, target = molecule(), torch.randn(9, 3, dtype=torch.float64)
    gradients = []
    for energy, forces in (model.energy_and_forces(*given), by_layers(model, *given, create_graph=True)):
        loss = energy.sum().square() + (forces - target).square().sum()
        gradients.append(torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True))
    for name, a, b in zip(dict(model.named_parameters()), *gradients, strict=True):
        assert (a - b).norm() <= 1e-10 * b.norm() + 1e-13, name


@pytest.mark.parametrize("frozen", [False, True])
def test_what_runs_on_a_device_is_the_op(frozen):
    """The layers with their gradients; here on the CPU."""
    model = PaiNN(SMALL).double().requires_grad_(not frozen)
    species, positions, edges = molecule()
    graph, vec = Graph(edges, 9), positions[edges[0]] - positions[edges[1]]
    for got, expected in zip(model._by_layers(species, vec, graph), native(model, species, vec, graph), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)
        assert got.requires_grad is expected.requires_grad is not frozen
    with torch.no_grad():
        assert not any(t.requires_grad for t in model._by_layers(species, vec, graph))


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=["f16", "bf16"])
def test_what_runs_on_a_device_computes_half_types_and_under_autocast_in_single_precision(half):
    model = PaiNN(SMALL).to(half)
    species, positions, edges = molecule()
    graph, vec = Graph(edges, 9), (positions[edges[0]] - positions[edges[1]]).to(half)
    single = copy.deepcopy(model).float()._by_layers(species, vec.float(), graph)
    rounded = model._by_layers(species, vec, graph)
    assert all(torch.equal(a, b.to(half)) for a, b in zip(rounded, single, strict=True))
    rounded[1].float().square().sum().backward()
    assert {p.grad.dtype for p in model.layers.parameters() if p.grad is not None} == {half}
    with torch.autocast("cpu", torch.bfloat16):
        for widened, given in ((model, vec), (copy.deepcopy(model).float(), vec.float())):
            for a, b in zip(widened._by_layers(species, given, graph), single, strict=True):
                assert a.dtype == torch.float32 and torch.equal(a, b)


def native(model, species, vec, graph):
    """Energies and gradients by the op."""
    return model.energies_and_gradients(species, vec, graph.edge_index, graph)


def test_the_weights_are_the_state_in_the_order_of_the_op():
    for config in (SMALL, BESSEL):
        model = PaiNN(config)
        expected = config.weights
        assert {n: tuple(t.shape) for n, t in model.state_dict().items()} == expected
        state = dict(model.state_dict(keep_vars=True))
        assert all(w is state[name] for w, name in zip(model.whole()[1], expected, strict=True))


def test_the_default_size_is_the_published_one():
    assert sum(p.numel() for p in PaiNN().parameters()) == 589057


def test_forces_turn_with_the_molecule_mirrors_included():
    model, (species, positions, edges) = PaiNN(SMALL).double(), molecule()
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    energy, forces = model.energy_and_forces(species, positions, edges)
    for matrix in (turn, -turn):
        turned, turned_forces = model.energy_and_forces(species, positions @ matrix.T + 7, edges)
        torch.testing.assert_close(turned, energy, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(turned_forces, forces @ matrix.T, rtol=1e-9, atol=1e-11)


def test_molecules_in_a_batch_are_as_alone():
    model = PaiNN(SMALL).double()
    parts = [molecule(n, seed=n) for n in (4, 7)]
    species, positions = (torch.cat([p[i] for p in parts]) for i in (0, 1))
    edges, batch = torch.cat([parts[0][2], parts[1][2] + 4], 1), torch.tensor([0] * 4 + [1] * 7)
    energies, forces = model.energy_and_forces(species, positions, edges, batch=batch, num_graphs=2)
    alone = [model.energy_and_forces(*part) for part in parts]
    torch.testing.assert_close(energies, torch.cat([e for e, _ in alone]), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(forces, torch.cat([f for _, f in alone]), rtol=1e-10, atol=1e-12)


def test_periodic_offsets_place_the_neighbours():
    model, (species, positions, edges) = PaiNN(SMALL).double(), molecule()
    moved = positions.clone()
    moved[3] += torch.tensor([10.0, 0.0, 0.0])
    offsets = torch.zeros(edges.shape[1], 3, dtype=torch.float64)
    offsets[edges[0] == 3, 0] -= 10
    offsets[edges[1] == 3, 0] += 10
    expected = model.energy_and_forces(species, positions, edges)
    torch.testing.assert_close(model.energy_and_forces(species, moved, edges, offsets=offsets), expected)


def test_frozen_weights_give_the_same_forces():
    model = PaiNN(SMALL)
    given = molecule(dtype=torch.float32)
    free = [t.detach() for t in model.energy_and_forces(*given)]
    frozen = copy.deepcopy(model).requires_grad_(False).energy_and_forces(*given)
    assert all(torch.equal(a, b) for a, b in zip(free, frozen, strict=True))
    assert not frozen[1].requires_grad


def test_a_training_step_lowers_the_loss():
    model, (species, positions, edges) = PaiNN(SMALL), molecule(dtype=torch.float32)
    target, optimizer = torch.randn(9, 3), torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        energy, forces = model.energy_and_forces(species, positions, edges)
        loss = energy[0].square() + (forces - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


class Calls(TorchDispatchMode):
    """Counts the calls of equikern's ops."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.namespace == "equikern"
        return func(*args, **(kwargs or {}))


def test_a_step_calls_few_ops():
    model, (species, positions, edges) = PaiNN(SMALL).double(), molecule()
    graph = Graph(edges, 9)
    with Calls() as layers:
        moved = positions.clone().requires_grad_()
        energy = model(species, moved[edges[0]] - moved[edges[1]], edges, graph).sum()
        torch.autograd.grad(energy, moved)
    assert 0 < layers.count <= 12
    graph.by_sender  # noqa: B018  made once for a neighbour list
    with Calls() as whole:
        model.energy_and_forces(species, positions, edges, graph=graph)
    assert whole.count == 1


def test_the_hessian_comes_from_the_layers_and_is_refused_by_the_op():
    model, (species, positions, edges) = PaiNN(BESSEL).double(), molecule(4)
    energy = lambda x: model(species, x[edges[0]] - x[edges[1]], edges).sum()  # noqa: E731
    hessian = torch.autograd.functional.hessian(energy, positions).reshape(12, 12)
    torch.testing.assert_close(hessian, hessian.T, rtol=1e-9, atol=1e-11)
    x = positions.clone().requires_grad_()
    _, forces = model.energy_and_forces(species, x, edges)
    (row,) = torch.autograd.grad(forces[0, 0], x, retain_graph=True)
    torch.testing.assert_close(-row.reshape(12), hessian[0], rtol=1e-9, atol=1e-11)
    with pytest.raises(BackendError, match="call the model itself"):
        torch.autograd.grad(forces[0, 0], x, create_graph=True)


def test_positions_and_edges_of_other_molecules_are_refused():
    model, (species, positions, edges) = PaiNN(SMALL).double(), molecule()
    with pytest.raises(ShapeError, match="positions"):
        model.energy_and_forces(species, positions[:5], edges)
    with pytest.raises(ShapeError, match="out of range"):
        model.energy_and_forces(species[:5], positions[:5], edges)
    with pytest.raises(ShapeError, match="float32"):
        model.energy_and_forces(species, positions.float(), edges)


def dipolar(atoms=6):
    """A potential of a PaiNN with dipoles, atomic numbers and positions."""
    model = PaiNN(SMALL, dipole=True).double()
    species, positions, _ = molecule(atoms)
    return Potential(model, [1, 6, 7, 8, 9]), torch.tensor([1, 6, 7, 8, 9])[species], positions


def test_dipoles_turn_with_the_molecule_and_invert_with_it():
    potential, numbers, positions = dipolar()
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    expected = potential.predict(numbers, positions)["dipole"]
    assert expected.norm() > 1e-3
    for matrix in (turn, -turn, -torch.eye(3, dtype=torch.float64)):
        found = potential.predict(numbers, positions @ matrix.T + 7)["dipole"]
        torch.testing.assert_close(found, expected @ matrix.T, rtol=1e-9, atol=1e-11)


def test_centrosymmetric_molecules_have_no_dipole():
    potential, numbers, positions = dipolar()
    assert potential.predict(numbers.repeat(2), torch.cat([positions, 1 - positions]))["dipole"].norm() < 1e-12


def test_dipoles_of_a_batch_are_those_of_the_molecules():
    potential, numbers, positions = dipolar()
    batch = torch.tensor([0, 0, 1, 1, 1, 1])
    found = potential(numbers, positions, batch=batch)["dipole"]
    for n in (0, 1):
        alone = potential.predict(numbers[batch == n], positions[batch == n])["dipole"]
        torch.testing.assert_close(found[n].detach(), alone, rtol=1e-10, atol=1e-12)


def test_dipoles_train():
    potential, numbers, positions = dipolar()
    potential(numbers, positions)["dipole"].square().sum().backward()
    head = potential.model.dipole_head
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())
    assert head.last.mix.weight.grad.norm() > 0


def test_a_model_without_dipoles_says_so():
    species, positions, edges = molecule()
    model = PaiNN(SMALL).double()
    assert "dipole" not in Potential(model, range(5)).predict(species, positions)
    with pytest.raises(EquikernError, match="dipole=True"):
        model.charges_and_dipoles(species, positions[edges[0]] - positions[edges[1]], edges)
