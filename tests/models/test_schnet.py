"""SchNet against a loop over edges; tables; derivatives; what is refused."""

import pytest
import torch

from equikern.errors import EquikernError
from equikern.graph import Graph, neighbours
from equikern.models import Potential, SchNet, SchNetConfig

SMALL = SchNetConfig(layers=2, channels=6, filters=5, num_basis=7, num_species=3, cutoff=3.0)


def made(config=SMALL, dtype=torch.float64):
    torch.manual_seed(0)
    model = SchNet(config)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.to(dtype)


def structure(atoms=7, box=4.0, dtype=torch.float64):
    """species, edge_vec, edge_index of a cluster, the last atom isolated."""
    generator = torch.Generator().manual_seed(1)
    positions = torch.rand(atoms, 3, generator=generator, dtype=torch.float64) * box
    positions[-1] += 50
    found = neighbours(positions, SMALL.cutoff)
    return torch.randint(3, (atoms,), generator=generator), found.vectors(positions).to(dtype), found.edge_index


def ssp(x):
    return torch.log(0.5 + 0.5 * x.exp())


def by_loop(model, species, edge_vec, edge_index):
    """The paper's formulas, edge by edge."""
    config, state = model.config, dict(model.state_dict())
    dense = lambda name, x: state[f"{name}.weight"] @ x + state.get(f"{name}.bias", 0)  # noqa: E731
    h = [state["embedding.weight"][s] for s in species]
    spacing = config.cutoff / (config.num_basis - 1)
    for n in range(config.layers):
        total = [torch.zeros(config.filters, dtype=torch.float64) for _ in h]
        for vec, (j, i) in zip(edge_vec, edge_index.T.tolist(), strict=True):
            d = vec.square().sum().sqrt()
            basis = torch.stack([(-((d - k * spacing) ** 2) / (2 * spacing**2)).exp() for k in range(config.num_basis)])
            network = f"layers.{n}.convolution.radial.network"
            filters = dense(f"{network}.2", ssp(dense(f"{network}.0", basis)))
            envelope = 0.5 * (1 + torch.cos(torch.pi * d / config.cutoff))
            total[i] = total[i] + dense(f"layers.{n}.inner", h[j]) * filters * envelope
        h = [
            x + dense(f"layers.{n}.outer.2", ssp(dense(f"layers.{n}.outer.0", t)))
            for x, t in zip(h, total, strict=True)
        ]
    return torch.stack([dense("readout.2", ssp(dense("readout.0", x))) for x in h]).squeeze(1)


def test_the_energies_are_those_of_a_loop_over_edges():
    model, given = made(), structure()
    expected = by_loop(model, *given)
    assert expected.std() > 1e-3
    torch.testing.assert_close(model(*given), expected, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(model(*given, Graph(given[2], 7)), expected, rtol=1e-12, atol=1e-13)


def test_tables_give_the_energies_and_forces_of_the_networks():
    config = SchNetConfig(layers=2, channels=16, filters=16, num_basis=10, num_species=3, cutoff=3.0)
    exact = made(config)
    species, edge_vec, edge_index = structure(60, 6.0)
    kept = edge_vec.norm(dim=1) > 0.4
    edge_vec, edge_index = edge_vec[kept], edge_index[:, kept]
    found = []
    for model in (exact, made(config, torch.float32)):
        vec = edge_vec.to(model.embedding.weight.dtype).requires_grad_()
        energies = model(species, vec, edge_index)
        found.append((energies, *torch.autograd.grad(energies.sum(), vec)))
    assert model.layers[0].convolution.table(vec.norm(dim=1), torch.float32) is not None
    for single, double in zip(found[1], found[0], strict=True):
        assert (single - double).abs().max() <= 2e-5 * double.abs().max()


def test_derivatives_of_second_order():
    model, (species, edge_vec, edge_index) = made(), structure(4, 2.0)
    weight = model.layers[0].convolution.radial.network[0].weight

    def energy(vec, weight):
        state = {"layers.0.convolution.radial.network.0.weight": weight}
        return torch.func.functional_call(model, state, (species, vec, edge_index)).sum()

    given = edge_vec.requires_grad_(), weight.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(energy, given, fast_mode=True)
    assert torch.autograd.gradgradcheck(energy, given, fast_mode=True)


def test_energy_and_force_are_continuous_at_the_cutoff():
    model = Potential(made(), [1, 6, 8])
    energies, forces = [], []
    for d in torch.linspace(3 - 1e-4, 3 + 1e-4, 21, dtype=torch.float64):
        found = model.predict([1, 8, 6], [[0, 0, 0], [0, 0, 1.2], [0, float(d), 0]])
        energies.append(found["energy"])
        forces.append(found["forces"])
    assert torch.stack(energies).diff().abs().max() < 1e-8
    assert torch.stack(forces).diff(dim=0).abs().max() < 1e-4


def test_mirror_images_have_one_energy():
    model, (species, edge_vec, edge_index) = made(), structure()
    torch.testing.assert_close(model(species, -edge_vec, edge_index), model(species, edge_vec, edge_index))


@pytest.mark.parametrize(
    "edge_index", [torch.zeros(2, 0, dtype=torch.int64), torch.tensor([[0, 1], [1, 0]])], ids=["none", "zero length"]
)
def test_no_edges_and_edges_of_zero_length_give_finite_results(edge_index):
    vec = torch.zeros(edge_index.shape[1], 3, dtype=torch.float64, requires_grad=True)
    energies = made()(torch.tensor([0, 1]), vec, edge_index)
    (gradient,) = torch.autograd.grad(energies.sum(), vec)
    assert energies.isfinite().all() and not gradient.any()


@pytest.mark.parametrize("field", ["layers", "channels", "filters", "num_basis", "num_species", "cutoff", "width"])
def test_sizes_that_cannot_be_are_refused(field):
    with pytest.raises(EquikernError, match=field):
        SchNetConfig(**{field: 0})
