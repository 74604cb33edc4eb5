"""DeepPot-SE against its formulas with padded slots, and against DeePMD-kit where that is installed."""

import numpy as np
import pytest
import torch

from equikern.errors import EquikernError
from equikern.graph import neighbours
from equikern.models import DeepPotSE, DeepPotSEConfig, Potential

ONE_SIDE = DeepPotSEConfig(3.0, 0.9, (7, 9), (3, 6, 6), 4, (5, 5), one_side=True)
PAIRS = DeepPotSEConfig(3.0, 0.9, (7, 9), (4, 8, 5), 3, (5, 10), one_side=False)
NO_DEEPMD = "deepmd-kit is not installed: pip install deepmd-kit, in an environment of its own"
CONFIGS = pytest.mark.parametrize("config", [ONE_SIDE, PAIRS], ids=["one side", "pairs"])


def made(config, dtype=torch.float64):
    """A model with statistics unlike 0 and 1."""
    torch.manual_seed(0)
    model = DeepPotSE(config)
    with torch.no_grad():
        model.environment.mean.uniform_(0.02, 0.2)
        model.environment.deviation.uniform_(0.1, 0.5)
    return model.to(dtype)


def positions_and_species(atoms=8, box=3.5):
    """A cluster, the last atom isolated."""
    generator = torch.Generator().manual_seed(3)
    positions = torch.rand(atoms, 3, generator=generator, dtype=torch.float64) * box
    positions[-1] += 50
    return positions, torch.randint(2, (atoms,), generator=generator)


def structure(dtype=torch.float64, **options):
    positions, species = positions_and_species(**options)
    found = neighbours(positions, 3.0)
    return species, found.vectors(positions).to(dtype), found.edge_index


def network(layers, x):
    """A network with skips in numpy, (..., in) -> (..., out)."""
    for layer in layers:
        a, b = (p.detach().numpy() for p in (layer.linear.weight, layer.linear.bias))
        y = np.tanh(x @ a.T + b) * (1 if layer.dt is None else layer.dt.detach().numpy())
        copies = {a.shape[1]: 1, 2 * a.shape[1]: 2}.get(a.shape[0], 0)
        x = y + np.concatenate([x] * copies, -1) if copies else y
    return x


def descriptor_by_slots(model, positions, species):
    """The published formulas: rows for all slots, the nearest neighbours of a species first, padded by zeros."""
    config, environment = model.config, model.environment
    mean, deviation = environment.mean.numpy(), environment.deviation.numpy()
    found = []
    for i, x in enumerate(positions):
        total = np.zeros((config.embedding[-1], 4))
        for t, slots in enumerate(config.slots):
            rows = np.zeros((slots, 4))
            vectors = [v for v, kind in zip(positions - x, species, strict=True) if kind == t]
            near = sorted((np.linalg.norm(v), *v) for v in vectors if 0 < np.linalg.norm(v) < config.cutoff)
            assert len(near) <= slots
            for row, (r, *v) in zip(rows, near, strict=False):
                u = np.clip((r - config.switch) / (config.cutoff - config.switch), 0, 1)
                s = (u**3 * (-6 * u**2 + 15 * u - 10) + 1) / r
                row[:] = [s, *(s * np.array(v) / r)]
            rows -= [mean[species[i]], 0, 0, 0]
            rows /= deviation[species[i]][[0, 1, 1, 1]]
            kind = t if config.one_side else species[i] * len(config.slots) + t
            total += network(environment.embeddings[kind], rows[:, :1]).T @ rows
        total /= sum(config.slots)
        found.append((total @ total[: config.axis].T).ravel())
    return np.stack(found)


@CONFIGS
def test_the_descriptor_is_the_published_one(config):
    model, (positions, species) = made(config), positions_and_species()
    expected = descriptor_by_slots(model, positions.numpy(), species.numpy())
    found = model.descriptor(*structure()).detach().numpy()
    assert expected.std(0).max() > 1e-3
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13 * abs(expected).max())


@CONFIGS
def test_the_energy_is_the_fitting_network_of_the_descriptor(config):
    model, (species, *edges) = made(config), structure()
    descriptor = model.descriptor(species, *edges).detach().numpy()
    expected = []
    for kind, row in zip(species.tolist(), descriptor, strict=True):
        hidden, last = model.fitting[kind]
        expected.append(last.weight.detach().numpy() @ network(hidden, row) + last.bias.detach().numpy())
    found = model(species, *edges).detach().numpy()
    np.testing.assert_allclose(found, np.concatenate(expected), rtol=1e-12)
    assert found.std() > 1e-3


@CONFIGS
def test_the_descriptor_is_that_of_deepmd_kit(config):
    deepmd = pytest.importorskip("deepmd.dpmodel.descriptor.se_e2_a", reason=NO_DEEPMD)
    from deepmd.dpmodel.utils import build_neighbor_list

    model, (positions, species) = made(config), positions_and_species()
    theirs = deepmd.DescrptSeA(
        config.cutoff, config.switch, list(config.slots), list(config.embedding), config.axis,
        type_one_side=config.one_side, precision="float64",
    )  # fmt: skip
    environment, kinds = model.environment, len(config.slots)
    mean, deviation = torch.zeros(kinds, 16, 4), environment.deviation[:, None, [0, 1, 1, 1]].expand(kinds, 16, 4)
    mean = mean.double()
    mean[:, :, 0] = environment.mean[:, None]
    theirs.set_stat_mean_and_stddev(mean.numpy(), deviation.numpy())
    for number, ours in enumerate(environment.embeddings):
        ends = (number,) if config.one_side else divmod(number, kinds)
        for layer, skip in zip(theirs.embeddings[ends].layers, ours, strict=True):
            layer.w, layer.b = skip.linear.weight.detach().numpy().T.copy(), skip.linear.bias.detach().numpy()
    coordinates, types = positions.numpy().reshape(1, -1), species.numpy().reshape(1, -1)
    listed = build_neighbor_list(coordinates, types, types.size, config.cutoff, list(config.slots))
    expected = theirs.call(coordinates, types, listed)[0][0]
    found = model.descriptor(*structure()).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * abs(expected).max())


@CONFIGS
def test_tables_give_the_energies_and_forces_of_the_networks(config):
    found = []
    for dtype in (torch.float64, torch.float32):
        model, (species, vec, edge_index) = made(config, dtype), structure(dtype, atoms=60, box=5.0)
        kept = vec.norm(dim=1) > 0.4
        species, vec, edge_index = species, vec[kept].requires_grad_(), edge_index[:, kept]
        energies = model.eval()(species, vec, edge_index)
        found.append((energies, *torch.autograd.grad(energies.sum(), vec)))
    assert model.convolution.table.why_not() is None
    for single, double in zip(found[1], found[0], strict=True):
        assert (single - double).abs().max() <= 2e-5 * double.abs().max()


@CONFIGS
def test_derivatives_of_second_order(config):
    model, (species, edge_vec, edge_index) = made(config), structure(atoms=4, box=2.0)
    name = "environment.embeddings.1.1.linear.weight"

    def energy(vec, weight):
        return torch.func.functional_call(model, {name: weight}, (species, vec, edge_index)).sum()

    given = edge_vec.requires_grad_(), model.get_parameter(name).detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(energy, given, fast_mode=True)
    assert torch.autograd.gradgradcheck(energy, given, fast_mode=True)


@CONFIGS
def test_energy_and_force_are_smooth_at_the_cutoff(config):
    model = Potential(made(config), [1, 8])
    forces = []
    for d in torch.linspace(3 - 1e-4, 3 + 1e-4, 21, dtype=torch.float64):
        found = model.predict([1, 8, 8], [[0, 0, 0], [0, 0, 1.2], [0, float(d), 0]])
        forces.append(found["forces"])
    steps = torch.stack(forces).diff(dim=0).abs().max()
    assert 0 < steps < 1e-7  # the third derivative of the switch is what jumps


def test_mirror_images_have_one_energy():
    model, (species, edge_vec, edge_index) = made(ONE_SIDE), structure()
    torch.testing.assert_close(model(species, -edge_vec, edge_index), model(species, edge_vec, edge_index))


def test_angles_count():
    model = made(ONE_SIDE)
    edge_index = torch.tensor([[1, 2], [0, 0]])  # only the first atom receives: distances do not differ
    energies = [
        model(torch.tensor([1, 0, 0]), torch.tensor([[0, 0, 1.0], vec], dtype=torch.float64), edge_index)[0]
        for vec in ([0, 1.2, 0], [0, 0.72, 0.96])
    ]
    assert abs(energies[0] - energies[1]) > 1e-6


def test_more_neighbours_than_slots_all_count():
    few = made(DeepPotSEConfig(3.0, 0.9, (1, 1), (3, 6, 6), 4, (5, 5)))
    species, edge_vec, edge_index = structure()
    energies = few(species, edge_vec, edge_index)
    order = torch.randperm(edge_vec.shape[0])
    torch.testing.assert_close(few(species, edge_vec[order], edge_index[:, order]), energies, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "edge_index", [torch.zeros(2, 0, dtype=torch.int64), torch.tensor([[0, 1], [1, 0]])], ids=["none", "zero length"]
)
def test_no_edges_and_edges_of_zero_length_give_finite_results(edge_index):
    vec = torch.zeros(edge_index.shape[1], 3, dtype=torch.float64, requires_grad=True)
    energies = made(ONE_SIDE)(torch.tensor([0, 1]), vec, edge_index)
    (gradient,) = torch.autograd.grad(energies.sum(), vec)
    assert energies.isfinite().all() and gradient.isfinite().all()


def test_statistics_are_those_of_all_slots():
    model = DeepPotSE(ONE_SIDE).double()
    species, edge_vec, edge_index = structure(atoms=12, box=4.0)
    model.standardize(species, edge_vec, edge_index)
    for kind in range(2):
        at = species[edge_index[1]] == kind
        s = model.environment.smooth_inverse(edge_vec[at].norm(dim=1))
        padded = torch.zeros(int((species == kind).sum()) * 16, dtype=torch.float64)
        padded[: len(s)] = s
        columns = torch.nn.functional.normalize(edge_vec[at]) * s.unsqueeze(1)
        torch.testing.assert_close(model.environment.mean[kind], padded.mean())
        expected = torch.stack([padded.std(correction=0), (columns.square().sum() / padded.numel() / 3).sqrt()])
        torch.testing.assert_close(model.environment.deviation[kind], expected)


def test_statistics_of_the_radial_column_are_those_of_deepmd_kit():
    deepmd = pytest.importorskip("deepmd.dpmodel.descriptor.se_e2_a", reason=NO_DEEPMD)
    config, model, (positions, species) = ONE_SIDE, DeepPotSE(ONE_SIDE).double(), positions_and_species()
    theirs = deepmd.DescrptSeA(config.cutoff, config.switch, list(config.slots), list(config.embedding), config.axis)
    theirs.compute_input_stats([{"coord": positions.numpy()[None], "atype": species.numpy()[None], "box": None}])
    model.standardize(*structure())
    found = model.environment
    torch.testing.assert_close(found.mean, torch.from_numpy(theirs.davg[:, 0, 0]))
    torch.testing.assert_close(found.deviation[:, 0], torch.from_numpy(theirs.dstd[:, 0, 0]))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(switch=6.0), "below the cutoff"),
        (dict(slots=()), "slots"),
        (dict(slots=(0, 3)), "slots"),
        (dict(embedding=(8, 4), axis=5), "axis is at most"),
        (dict(cutoff=float("nan")), "cutoff"),
        (dict(fitting=(2.5,)), "fitting"),
    ],
)
def test_sizes_that_cannot_be_are_refused(options, words):
    with pytest.raises(EquikernError, match=words):
        DeepPotSEConfig(**options)
