"""The whole-model path for dynamics: the model's numbers, whatever happens to its weights; refusals."""

import pytest
import torch

import equikern
from equikern.cli.zoo import ZOO
from equikern.errors import EquikernError, ShapeError
from equikern.models import PaiNN, PaiNNConfig
from equikern.nn import force_graph

CONFIG = PaiNNConfig(2, 8, 4, "gaussian", 10, 5, 3.0)


def molecule(atoms=6):
    """species, positions in float64, edges: all pairs."""
    edges = (~torch.eye(atoms, dtype=torch.bool)).nonzero().T.contiguous()
    return torch.randint(5, (atoms,)), torch.rand(atoms, 3, dtype=torch.float64) * 3, edges


def assert_same(forces_of, model, species, positions, edges, offsets=None):
    energy, forces = forces_of(positions, offsets)
    expected, expected_forces = model.energy_and_forces(species, positions, edges, offsets=offsets)
    torch.testing.assert_close(energy, expected[0].detach().double(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(forces, expected_forces.detach(), rtol=1e-6, atol=1e-6)


def test_it_gives_the_models_energy_and_forces_at_every_position():
    model, (species, positions, edges) = PaiNN(CONFIG).double(), molecule()
    forces_of = force_graph(model, species, edges)
    for _ in range(3):
        positions = positions + 0.1 * torch.randn_like(positions)
        assert_same(forces_of, model, species, positions, edges, torch.randn(30, 3, dtype=torch.float64) * 0.1)


def replace_parameter(model):
    model.layers[1].mix.weight = torch.nn.Parameter(torch.randn_like(model.layers[1].mix.weight))


def write(model):
    with torch.no_grad():
        model.readout[0].bias.add_(1.0)


def load(model):
    model.load_state_dict(PaiNN(CONFIG).double().state_dict())


def exchange_data(model):
    model.layers[0].filter.weight.data = torch.randn_like(model.layers[0].filter.weight)


def replace_module(model):
    model.layers[0].phi[0] = torch.nn.Linear(8, 8).double()


def train(model):
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    species, positions, edges = molecule()
    model.energy_and_forces(species, positions, edges)[0].sum().backward()
    optimizer.step()


@pytest.mark.parametrize("change", [replace_parameter, write, load, exchange_data, replace_module, train])
def test_changed_weights_count_at_the_next_call(change):
    model, (species, positions, edges) = PaiNN(CONFIG).double(), molecule()
    forces_of = force_graph(model, species, edges)
    before, _ = forces_of(positions)
    change(model)
    assert_same(forces_of, model, species, positions, edges)
    assert forces_of(positions)[0] != before


def test_a_model_cast_to_another_dtype_is_followed():
    model, (species, positions, edges) = PaiNN(CONFIG).double(), molecule()
    forces_of = force_graph(model, species, edges)
    forces_of(positions)
    model.float()
    assert_same(forces_of, model, species, positions.float(), edges)
    with pytest.raises(ShapeError, match="float32"):
        forces_of(positions)


def test_a_new_neighbour_list_is_taken():
    model, (species, positions, edges) = PaiNN(CONFIG).double(), molecule()
    forces_of = force_graph(model, species, edges)
    forces_of.set_edges(edges[:, 5:])
    assert_same(forces_of, model, species, positions, edges[:, 5:])


def test_the_reference_backend_gives_the_same():
    model, (species, positions, edges) = PaiNN(CONFIG).double(), molecule()
    forces_of = force_graph(model, species, edges)
    with equikern.backend("reference"):
        assert_same(forces_of, model, species, positions, edges)
        reference = forces_of(positions)
    torch.testing.assert_close(forces_of(positions), reference, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["nequip", "schnet", "mace", "deeppot-se"])
def test_other_models_are_differentiated(name):
    model, (species, positions, edges) = ZOO[name].model().double(), molecule()
    species = species % model.config.num_species
    forces_of = force_graph(model, species, edges)
    energy, forces = forces_of(positions)
    leaf = positions.clone().requires_grad_()
    expected = model(species, leaf[edges[0]] - leaf[edges[1]], edges).sum()
    torch.testing.assert_close(energy, expected.detach(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(forces, -torch.autograd.grad(expected, leaf)[0], rtol=1e-9, atol=1e-11)
    assert not energy.requires_grad and not forces.requires_grad and forces.norm() > 0
    forces_of.set_edges(edges[:, :0])
    assert not forces_of(positions)[1].any()
    with pytest.raises(ShapeError, match="one dtype"):
        forces_of(positions.float())


def test_the_virial_is_the_derivative_by_strain():
    model, (species, positions, edges) = PaiNN(CONFIG).double(), molecule()
    forces_of = force_graph(model, species, edges)
    offsets = torch.randn(30, 3, dtype=torch.float64) * 0.1
    energy, forces, virial = forces_of.virial(positions, offsets)
    torch.testing.assert_close((energy, forces), forces_of(positions, offsets))
    strain = torch.randn(3, 3, dtype=torch.float64)
    strain = strain + strain.T
    ends = [
        forces_of(positions + h * positions @ strain, offsets + h * offsets @ strain)[0] for h in (1e-5, -1e-5)
    ]  # fmt: skip
    torch.testing.assert_close(-(virial * strain).sum(), (ends[0] - ends[1]) / 2e-5, rtol=1e-7, atol=1e-8)


def test_one_atom_without_edges_has_an_energy_and_no_force():
    model = PaiNN(CONFIG).double()
    forces_of = force_graph(model, torch.tensor([2]), torch.zeros(2, 0, dtype=torch.int64))
    energy, forces = forces_of(torch.zeros(1, 3, dtype=torch.float64))
    assert energy.isfinite() and torch.equal(forces, torch.zeros(1, 3, dtype=torch.float64))


def test_other_models_are_refused_by_name():
    with pytest.raises(EquikernError, match="Linear"):
        force_graph(torch.nn.Linear(3, 3), *molecule()[::2])
    with pytest.raises(EquikernError, match="LEFTNet"):
        force_graph(ZOO["leftnet"].model(), *molecule()[::2])


def test_positions_that_do_not_fit_are_refused():
    model, (species, positions, edges) = PaiNN(CONFIG).double(), molecule()
    forces_of = force_graph(model, species, edges)
    with pytest.raises(ShapeError, match="6 atoms"):
        forces_of(positions[:5])
    with pytest.raises(ShapeError, match="offsets"):
        forces_of(positions, torch.zeros(30, 2))
    with pytest.raises(EquikernError, match="train"):
        forces_of(positions.requires_grad_())
    with pytest.raises(ShapeError, match="integers"):
        force_graph(model, positions, edges)
    with pytest.raises(ShapeError, match="species must lie"):
        force_graph(model, species + 100, edges)
