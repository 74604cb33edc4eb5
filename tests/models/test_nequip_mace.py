"""NequIP and MACE: symmetries, derivatives, limits (isolated atoms, no edges, edges of length zero), tables, state."""

import copy
import io

import pytest
import torch

from equikern.errors import EquikernError, ShapeError
from equikern.graph import Graph
from equikern.models import MACE, MACEConfig, NequIP, NequIPConfig

SIZES = {"cutoff": 3.0, "num_species": 3, "num_basis": 5, "avg_num_neighbors": 6.0}
MODELS = {
    "nequip": lambda: NequIP(NequIPConfig(layers=3, channels=(4, 3, 2), radial=(6,), readout=(5,), **SIZES)),
    "nequip-natural": lambda: NequIP(NequIPConfig(layers=2, channels=4, parity=False, radial=(6,), **SIZES)),
    "mace": lambda: MACE(MACEConfig(channels=4, lmax=2, radial=(6, 6), **SIZES)),
    "mace-residual": lambda: MACE(
        MACEConfig(channels=3, lmax_hidden=2, first_residual=True, correlation=(2, 2), radial=(6,), **SIZES)
    ),
}


@pytest.fixture(params=MODELS)
def model(request):
    torch.manual_seed(0)
    return MODELS[request.param]().double()


def molecule(atoms=7, seed=0, box=3.0):
    """species, positions, edges within the cutoff."""
    generator = torch.Generator().manual_seed(seed)
    positions = torch.rand(atoms, 3, generator=generator, dtype=torch.float64) * box
    return torch.randint(3, (atoms,), generator=generator), positions, edges_of(positions)


def edges_of(positions):
    return (torch.cdist(positions, positions) < 3.0).fill_diagonal_(False).nonzero().T.contiguous()


def energies_and_forces(model, species, positions, edges, create_graph=False):
    positions = positions.detach().clone().requires_grad_()
    energies = model(species, positions[edges[0]] - positions[edges[1]], edges)
    return energies, -torch.autograd.grad(energies.sum(), positions, create_graph=create_graph)[0]


def close(a, b, tolerance=1e-12):
    assert (a - b).abs().max() <= tolerance * (1 + b.abs().max())


def test_energies_stay_and_forces_turn_under_rotations_mirrors_and_translations(model):
    species, positions, edges = molecule()
    energies, forces = energies_and_forces(model, species, positions, edges)
    assert forces.abs().max() > 1e-3 and energies.std() > 1e-3
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    for matrix in (turn, -turn):
        turned, turned_forces = energies_and_forces(model, species, positions @ matrix.T + 1, edges)
        close(turned, energies)
        close(turned_forces, forces @ matrix.T)


def test_features_of_every_layer_turn_as_their_irreps_say(model):
    species, positions, edges = molecule()
    seen = []
    for layer in model.layers:
        layer.register_forward_hook(lambda module, _, out: seen.append((module.irreps_out, out)))
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    turn = -turn * turn.det()  # a mirror
    for x in (positions, positions @ turn.T):
        model(species, x[edges[0]] - x[edges[1]], edges)
    layers = len(model.layers)
    assert any(irreps.lmax > 0 for irreps, _ in seen)
    for (irreps, before), (_, after) in zip(seen[:layers], seen[layers:], strict=True):
        assert before.abs().max() > 1e-3
        close(after, before @ irreps.D_from_matrix(turn).T)


def test_atoms_and_edges_have_no_order(model):
    species, positions, edges = molecule()
    order, other = torch.randperm(7), torch.randperm(edges.shape[1])
    expected = energies_and_forces(model, species, positions, edges)
    got = energies_and_forces(model, species[order], positions[order], torch.argsort(order)[edges][:, other])
    for a, b in zip(got, expected, strict=True):
        close(a, b[order])


def test_two_molecules_together_are_as_alone(model):
    parts = [molecule(n, seed=n) for n in (4, 6)]
    species, positions = (torch.cat([p[i] for p in parts]) for i in (0, 1))
    together = energies_and_forces(model, species, positions, torch.cat([parts[0][2], parts[1][2] + 4], 1))
    alone = [energies_and_forces(model, *part) for part in parts]
    for got, expected in zip(together, zip(*alone, strict=True), strict=True):
        close(got, torch.cat(expected))


def test_the_species_matter(model):
    species, positions, edges = molecule()
    changed = species.clone()
    changed[0] = (species[0] + 1) % 3
    first, second = (energies_and_forces(model, s, positions, edges)[0] for s in (species, changed))
    assert (first - second).abs().min() > 1e-6


def test_forces_are_derivatives_of_the_energy(model):
    species, positions, edges = molecule(5, box=2.0)
    _, forces = energies_and_forces(model, species, positions, edges)

    def energy(atom, axis, step):
        moved = positions.clone()
        moved[atom, axis] += step
        return energies_and_forces(model, species, moved, edges)[0].sum().detach()

    numerical = torch.tensor([[energy(n, k, -1e-4) - energy(n, k, 1e-4) for k in range(3)] for n in range(5)]) / 2e-4
    close(numerical, forces, 1e-7)


def test_derivatives_of_first_and_second_order_pass_gradcheck(model):
    species, positions, edges = molecule(3, box=1.5)
    vec = (positions[edges[0]] - positions[edges[1]]).requires_grad_()
    parameters = [p for p in model.parameters() if p.requires_grad]
    names = [n for n, _ in model.named_parameters()]

    def energies(vec, *values):
        return torch.func.functional_call(model, dict(zip(names, values, strict=True)), (species, vec, edges))

    assert torch.autograd.gradcheck(energies, (vec, *parameters), fast_mode=True)
    assert torch.autograd.gradgradcheck(energies, (vec, *parameters), fast_mode=True, atol=1e-4)


def test_training_on_forces_lowers_the_loss(model):
    species, positions, edges = molecule()
    target = 2 * energies_and_forces(model, species, positions, edges)[1]
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        _, forces = energies_and_forces(model, species, positions, edges, create_graph=True)
        loss = (forces - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_an_isolated_atom_has_an_energy_of_its_species_alone_and_no_force(model):
    species, positions, _ = molecule()
    positions[3] += 100
    edges = edges_of(positions)
    energies, forces = energies_and_forces(model, species, positions, edges)
    alone = model(species[3:4], positions.new_zeros(0, 3), edges.new_zeros(2, 0))
    close(energies[3:4], alone)
    assert forces[3].abs().max() == 0 and forces.isfinite().all()
    if not getattr(model.config, "first_residual", False):
        assert alone == 0


@pytest.mark.parametrize("atoms", [0, 1, 3])
def test_no_edges_give_finite_energies_and_gradients(model, atoms):
    vec = torch.zeros(0, 3, dtype=torch.float64, requires_grad=True)
    energies = model(torch.zeros(atoms, dtype=torch.int64), vec, torch.zeros(2, 0, dtype=torch.int64))
    found = torch.autograd.grad(energies.sum(), [vec, *model.parameters()], allow_unused=True)
    assert energies.shape == (atoms,) and energies.isfinite().all()
    assert all(g.isfinite().all() for g in found if g is not None)


def test_an_edge_of_length_zero_gives_finite_energies_forces_and_training_gradients(model):
    species, positions, edges = molecule()
    positions[1] = positions[0]
    energies, forces = energies_and_forces(model, species, positions, edges, create_graph=True)
    gradients = torch.autograd.grad(forces.square().sum(), list(model.parameters()), allow_unused=True)
    assert all(t.isfinite().all() for t in (energies, forces, *gradients) if t is not None)


def test_nothing_beyond_the_cutoff_counts(model):
    species, positions, _ = molecule(box=4.0)
    every = (~torch.eye(7, dtype=torch.bool)).nonzero().T.contiguous()
    assert every.shape[1] > edges_of(positions).shape[1]
    for a, b in zip(
        energies_and_forces(model, species, positions, every),
        energies_and_forces(model, species, positions, edges_of(positions)),
        strict=True,
    ):
        close(a, b)


def test_float32_with_tables_is_float32_of_the_same_model(model):
    species, positions, edges = molecule(40, box=6.0)
    expected = energies_and_forces(model, species, positions, edges)
    single = copy.deepcopy(model).float().eval()
    got = energies_and_forces(single, species, positions.float(), edges)
    length = (positions[edges[0]] - positions[edges[1]]).norm(dim=1).float().clamp(min=0.5)
    assert single.layers[0].convolution.table(length, torch.float32) is not None
    for a, b in zip(got, expected, strict=True):
        assert (a - b).abs().max() <= 2e-5 * b.abs().max()


def test_results_have_the_same_bits_and_survive_saving(model):
    given = molecule()
    expected = energies_and_forces(model, *given)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    other = type(model)(model.config).double()
    other.load_state_dict(model.state_dict())
    for again in (model, other, copy.deepcopy(model), torch.load(buffer, weights_only=False)):
        for a, b in zip(energies_and_forces(again, *given), expected, strict=True):
            assert torch.equal(a, b)


def test_a_prepared_graph_saves_the_sort_and_is_checked(model):
    species, positions, edges = molecule()
    vec = positions[edges[0]] - positions[edges[1]]
    assert torch.equal(model(species, vec, edges, Graph(edges, 7)), model(species, vec, edges))
    with pytest.raises(ShapeError, match="other edges"):
        model(species, vec, edges, Graph(edges.flip(0), 7))


def test_inputs_that_do_not_fit_are_refused(model):
    species, positions, edges = molecule()
    vec = positions[edges[0]] - positions[edges[1]]
    with pytest.raises(ShapeError, match="species must lie in 0"):
        model(species + 1, vec, edges)
    with pytest.raises(ShapeError, match="edge_vec has shape"):
        model(species, vec[1:], edges)
    with pytest.raises(ShapeError, match="out of range"):
        model(species[:4], vec, edges)


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (NequIPConfig, {"cutoff": 0.0}, "cutoff is finite and above 0"),
        (NequIPConfig, {"layers": 0}, "layers is an integer >= 1"),
        (NequIPConfig, {"lmax": 2, "channels": (8, 8)}, "needs 3 channels"),
        (NequIPConfig, {"radial": (0,)}, "at least 1"),
        (NequIPConfig, {"avg_num_neighbors": (2.0, 3.0)}, "one a species"),
        (NequIPConfig, {"avg_num_neighbors": 0.0}, "above 0"),
        (NequIPConfig, {"cutoff_power": 1}, "cutoff_power >= 2"),
        (MACEConfig, {"cutoff": float("nan")}, "cutoff is finite and above 0"),
        (MACEConfig, {"lmax": 4}, "lmax <= 3, integers"),
        (MACEConfig, {"lmax": 1, "lmax_hidden": 2}, "lmax_hidden <= lmax <= 3"),
        (MACEConfig, {"correlation": (3, 3, 3)}, "one a layer"),
        (MACEConfig, {"correlation": 5}, "1 to 4"),
        (MACEConfig, {"num_species": 2.0}, "num_species is an integer"),
    ],
)
def test_sizes_that_cannot_be_are_refused(config, options, message):
    with pytest.raises(EquikernError, match=message):
        config(**options)
