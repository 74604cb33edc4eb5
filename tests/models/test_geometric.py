"""TFN, SE(3)-Transformer, LEFTNet, SphereNet: symmetries, derivatives, the cutoff, degenerate and bad input."""

import copy

import pytest
import torch

from equikern import models
from equikern.errors import EquikernError, ShapeError
from equikern.graph import Graph

CUTOFF = 3.0
SPHERENET = models.SphereNetConfig(
    CUTOFF, 5, layers=2, channels=8, inner=6, narrow=4, output=8, output_layers=1, num_basis=4, degrees=4
)


def transformer(parity):
    """A small SE(3)-Transformer."""
    return models.SE3Transformer(
        models.SE3TransformerConfig(CUTOFF, 5, layers=3, channels=4, heads=2, div=1, hidden=8, parity=parity)
    )


MODELS = {
    "TFN": lambda: models.TFN(models.TFNConfig(CUTOFF, 5, layers=2, channels=4, hidden=8)),
    "TFN-full": lambda: models.TFN(models.TFNConfig(CUTOFF, 5, layers=3, channels=3, hidden=8, parity="full")),
    "TFN-none": lambda: models.TFN(models.TFNConfig(CUTOFF, 5, layers=3, channels=3, hidden=8, parity="none")),
    "SE3Transformer": lambda: transformer("natural"),
    "LEFTNet": lambda: models.LEFTNet(models.LEFTNetConfig(CUTOFF, 5, layers=2, channels=6, num_basis=6)),
    "SphereNet": lambda: models.SphereNet(SPHERENET),
    "SE3Transformer-none": lambda: transformer("none"),
}
SEES_MIRRORS = {"TFN-none", "SE3Transformer-none", "SphereNet"}
every = pytest.mark.parametrize("name", MODELS)
tensor = lambda *rows: torch.tensor(rows, dtype=torch.float64)  # noqa: E731

ANGLE = torch.arange(6, dtype=torch.float64) * torch.pi / 3
DEGENERATE = {
    "atom": tensor([0.3, 0.2, 0.1]),
    "isolated atom": tensor([0, 0, 0], [0, 0, 1.1], [40, 0, 0]),
    "diatomic": tensor([0, 0, 0], [0.5, 0.6, 0.7]),
    "collinear": tensor([0, 0, 0], [0.5, 0.6, 0.7], [1, 1.2, 1.4]),
    "centred line": tensor([-1, 0, 0], [0, 0, 0], [1, 0, 0]),
    "planar ring": 1.4 * torch.stack([ANGLE.cos(), ANGLE.sin(), 0 * ANGLE], 1),
    "same direction": tensor([0, 0, 0], [1, 0, 0], [1.5, 0, 0], [0, 1, 0]),
}
CHIRAL = tensor([0, 0, 0], [1.1, 0, 0], [-0.3, 1.3, 0], [-0.4, -0.6, 1.4], [-0.5, -0.6, -1.6])


def build(name):
    """A model in float64, with weights that matter everywhere."""
    model = MODELS[name]().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def cluster(atoms=8):
    """Species and positions of a rattled cube of atoms, 1.6 apart."""
    corners = 1.6 * torch.cartesian_prod(*[torch.arange(2, dtype=torch.float64)] * 3)[:atoms]
    return torch.randint(5, (atoms,)), corners + 0.4 * torch.rand(atoms, 3, dtype=torch.float64)


def atomic(model, species, positions, edges=None, **keywords):
    """Atomic energies of an open cluster, its edges found by brute force."""
    if edges is None:
        near = torch.cdist(positions.detach(), positions.detach()) < model.config.cutoff
        edges = (near & ~torch.eye(len(species), dtype=torch.bool)).nonzero().T
    if getattr(model, "uses_positions", False):
        keywords["positions"] = positions
    return model(species, positions[edges[0]] - positions[edges[1]], edges, **keywords)


def evaluate(model, species, positions):
    """Energy and forces."""
    x = positions.clone().requires_grad_()
    energy = atomic(model, species, x).sum()
    return energy.detach(), -torch.autograd.grad(energy, x)[0]


def rotation():
    """A uniformly drawn rotation."""
    q, r = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))
    q = q * r.diagonal().sign()
    return q * q.det()


def agree(got, expected):
    """Energies to 1e-12, forces to 1e-10 of the largest."""
    assert (got[0] - expected[0]).abs() <= 1e-12 * max(1, expected[0].abs())
    assert (got[1] - expected[1]).abs().max() <= 1e-10 * max(1e-3, expected[1].abs().max())


@every
def test_energy_and_forces_turn_move_and_renumber_with_the_atoms(name):
    model, (species, positions) = build(name), cluster()
    energy, forces = evaluate(model, species, positions)
    assert forces.abs().max() > 1e-3
    turn, order = rotation(), torch.randperm(len(species))
    agree(evaluate(model, species, positions @ turn.T), (energy, forces @ turn.T))
    agree(evaluate(model, species, positions + 30 * torch.randn(3, dtype=torch.float64)), (energy, forces))
    agree(evaluate(model, species[order], positions[order]), (energy, forces[order]))


@every
def test_mirror_images_are_told_apart_only_where_that_is_meant(name):
    model, species = build(name), torch.arange(5)
    energy, forces = evaluate(model, species, CHIRAL)
    mirror = torch.diag(tensor(1, 1, -1))
    got = evaluate(model, species, CHIRAL @ mirror)
    if name in SEES_MIRRORS:
        assert (got[0] - energy).abs() > 1e-8 * max(1, energy.abs())
    else:
        agree(got, (energy, forces @ mirror))


@every
def test_forces_are_minus_the_gradient_and_sum_to_no_force_and_no_torque(name):
    model, (species, positions) = build(name), cluster()
    forces, h = evaluate(model, species, positions)[1], 1e-4
    moved = [positions + sign * h * step for step in torch.eye(24).double().view(24, 8, 3) for sign in (1, -1)]
    energies = torch.stack([atomic(model, species, x).sum().detach() for x in moved]).view(24, 2)
    numerical = ((energies[:, 1] - energies[:, 0]) / (2 * h)).view(8, 3)
    scale = max(1, forces.abs().max())
    assert (numerical - forces).abs().max() <= 1e-6 * scale
    assert forces.sum(0).abs().max() <= 1e-10 * scale
    assert torch.linalg.cross(positions, forces).sum(0).abs().max() <= 1e-10 * scale


@every
@pytest.mark.parametrize("others", [0, 3])
def test_energy_and_forces_are_continuous_where_a_pair_crosses_the_cutoff(name, others):
    model = build(name)
    species = torch.tensor([1, 2, 3, 0, 4])[: 2 + others]
    still = tensor([0, 0, 0], [0, 0, 0], [0.9, 0.7, 0.5], [0.3, 1.4, 2.2], [-0.6, 0.8, 1.7])[: 2 + others]
    energies, forces = [], []
    for step in torch.linspace(-1e-4, 1e-4, 40, dtype=torch.float64):
        positions = still.clone()
        positions[1, 2] = CUTOFF + step
        energy, force = evaluate(model, species, positions)
        energies.append(energy)
        forces.append(force)
    bends = torch.stack(energies).diff(n=2).abs()
    jumps = torch.stack(forces).diff(dim=0).abs().amax((1, 2))
    for changes, noise in ((bends, 1e-12), (jumps, 1e-9)):
        crossing = len(changes) // 2
        elsewhere = torch.cat([changes[: crossing - 2], changes[crossing + 3 :]])
        assert changes.max() <= 10 * elsewhere.max() + noise


@every
def test_second_derivatives_are_right(name):
    model, species = build(name), torch.tensor([0, 1, 2, 3])
    # The weights too: their gradient of forces is what training needs.
    weights = [p for p in model.parameters() if p.ndim == 1][:2]
    positions = (CHIRAL[:4] + 0.1 * torch.randn(4, 3, dtype=torch.float64)).requires_grad_()

    def energy(x, *_):
        return atomic(model, species, x).sum()

    assert torch.autograd.gradcheck(energy, (positions, *weights), fast_mode=True)
    assert torch.autograd.gradgradcheck(energy, (positions, *weights), fast_mode=True)


@every
@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate_structures_have_finite_energies_forces_and_training_gradients(name, case):
    model, positions = build(name), DEGENERATE[case].clone().requires_grad_()
    species = torch.arange(len(positions)) % 3
    energy = atomic(model, species, positions)
    forces = torch.autograd.grad(energy.sum(), positions, create_graph=True)[0]
    loss = energy.square().sum() + forces.square().sum()
    gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True)
    assert all(t.isfinite().all() for t in (energy, forces, *gradients))


@every
@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate_structures_turn_too(name, case):
    model, positions = build(name), DEGENERATE[case]
    species, turn = torch.arange(len(positions)) % 3, rotation()
    energy, forces = evaluate(model, species, positions)
    agree(evaluate(model, species, positions @ turn.T + 1), (energy, forces @ turn.T))


@every
def test_atoms_at_one_place_give_finite_results(name):
    model, species = build(name), torch.tensor([0, 1, 2])
    energy, forces = evaluate(model, species, tensor([0, 0, 0], [0, 0, 0], [1, 0, 0]))
    assert energy.isfinite() and forces.isfinite().all()


@every
def test_molecules_in_a_batch_are_as_alone(name):
    model, (a, x), (b, y) = build(name), cluster(5), cluster(4)
    apart = torch.cat([x, y + 100])
    batch = torch.tensor([0] * 5 + [1] * 4)
    keywords = {"batch": batch} if getattr(model, "uses_positions", False) else {}
    got = atomic(model, torch.cat([a, b]), apart, **keywords)
    torch.testing.assert_close(got, torch.cat([atomic(model, a, x), atomic(model, b, y)]), rtol=1e-12, atol=1e-12)


@every
def test_the_order_of_edges_and_edges_beyond_the_cutoff_do_not_matter(name):
    model, (species, positions) = build(name), cluster()
    positions = 1.4 * positions
    expected = atomic(model, species, positions)
    everything = (~torch.eye(8, dtype=torch.bool)).nonzero().T[:, torch.randperm(56)]
    assert (torch.cdist(positions, positions) > CUTOFF).any()
    torch.testing.assert_close(atomic(model, species, positions, everything), expected, rtol=1e-12, atol=1e-12)


@every
def test_float32_follows_float64(name):
    model, (species, positions) = build(name), cluster()
    energy, forces = evaluate(model, species, positions)
    single, single_forces = evaluate(copy.deepcopy(model).float(), species, positions.float())
    assert (single - energy).abs() <= 5e-5 * max(1, energy.abs())
    assert (single_forces - forces).abs().max() <= 2e-4 * forces.abs().max()


@every
def test_a_prepared_graph_gives_the_same_and_inputs_that_do_not_fit_are_refused(name):
    model, (species, positions) = build(name), cluster()
    edges = (~torch.eye(8, dtype=torch.bool)).nonzero().T.contiguous()
    got = atomic(model, species, positions, edges, graph=Graph(edges, 8))
    assert torch.equal(got, atomic(model, species, positions, edges))
    with pytest.raises(ShapeError, match="edge_vec"):
        model(species, torch.zeros(3, 3, dtype=torch.float64), edges)
    for wrong in (species + 5, species - 5):
        with pytest.raises(ShapeError, match=r"species must lie in 0 \.\.\. 4"):
            atomic(model, wrong, positions, edges)
    with pytest.raises(ShapeError, match="species are integers"):
        model(species[None], torch.zeros(56, 3, dtype=torch.float64), edges)


@pytest.mark.parametrize(
    ("config", "changes", "words"),
    [
        (models.TFNConfig, {"cutoff": 0.0}, "cutoff is finite and above 0"),
        (models.TFNConfig, {"channels": 0}, "channels is an integer >= 1"),
        (models.TFNConfig, {"parity": "odd"}, "unknown parity 'odd'; use one of natural, full, none"),
        (models.TFNConfig, {"lmax": -1}, "lmax is an integer >= 0"),
        (models.LEFTNetConfig, {"epsilon": -1.0}, "epsilon is finite and above 0"),
        (models.SphereNetConfig, {"degrees": 0}, "degrees is an integer >= 1"),
        (models.SE3TransformerConfig, {"heads": 3}, "16 channels are no multiple of 2 \\* 3"),
    ],
)
def test_sizes_that_cannot_be_are_refused(config, changes, words):
    with pytest.raises(EquikernError, match=words):
        config(**changes)


def crystal():
    """Numbers, positions and a skewed cell thinner than the cutoff."""
    cell = tensor([2.6, 0.2, 0], [0.1, 3.3, 0.3], [0, 0.4, 3.6])
    positions = tensor([0, 0, 0], [1.2, 1.4, 0.3], [0.4, 1.9, 2.1])
    return torch.tensor([1, 6, 8]), positions, cell


@pytest.mark.parametrize("name", [name for name in MODELS if name != "LEFTNet"])
def test_crystals_as_potentials_repeat_turn_and_have_the_stress_of_strained_cells(name):
    potential, (numbers, positions, cell) = models.Potential(build(name), [1, 6, 7, 8, 9]), crystal()
    expected = potential.predict(numbers, positions, cell)
    moved = positions + tensor([1, 0, -1], [0, 2, 0], [0, 0, 0]) @ cell
    agree_as_crystals(potential.predict(numbers, moved, cell), expected)
    turn = rotation()
    turned = potential.predict(numbers, positions @ turn.T, cell @ turn.T)
    back = {"forces": turned["forces"] @ turn, "stress": turn.T @ turned["stress"] @ turn}
    agree_as_crystals(turned | back, expected)
    twice = potential.predict(
        numbers.repeat(2), torch.cat([positions, positions + cell[2]]), cell * tensor([1], [1], [2])
    )
    twice = {"energy": twice["energy"] / 2, "forces": twice["forces"][3:], "stress": twice["stress"]}
    agree_as_crystals(twice, expected)
    h, strain = 1e-5, torch.randn(3, 3, dtype=torch.float64)
    strain = strain + strain.T
    energies = [
        potential.predict(numbers, positions @ bent, cell @ bent)["energy"]
        for bent in (torch.eye(3) + sign * h * strain for sign in (1, -1))
    ]
    slope = (energies[0] - energies[1]) / (2 * h) / torch.linalg.det(cell)
    assert (slope - (expected["stress"] * strain).sum()).abs() <= 1e-6 * max(1, expected["stress"].abs().max())


def agree_as_crystals(got, expected):
    """Energy, forces and stress of two cells."""
    for name, tolerance in (("energy", 1e-11), ("forces", 1e-10), ("stress", 1e-10)):
        assert (got[name] - expected[name]).abs().max() <= tolerance * max(1, expected[name].abs().max()), name


def test_leftnet_refuses_crystals_and_takes_molecules_as_a_potential():
    potential, (numbers, positions, cell) = models.Potential(build("LEFTNet"), [1, 6, 7, 8, 9]), crystal()
    with pytest.raises(EquikernError, match="periodic systems have no centroid"):
        potential.predict(numbers, positions, cell)
    energy, forces = evaluate(potential.model, torch.tensor([0, 1, 3]), positions)
    got = potential.predict(numbers, positions)
    agree((got["energy"], got["forces"]), (energy, forces))
