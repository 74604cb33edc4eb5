"""`Potential`: derivatives, batches, periodic cells, energies of elements, and what is refused."""

import numpy as np
import pytest
import torch

from equikern.cli.zoo import ZOO
from equikern.errors import EquikernError, ShapeError
from equikern.graph import VerletList, neighbours
from equikern.models import (
    DeepPotSE,
    DeepPotSEConfig,
    PaiNN,
    PaiNNConfig,
    Potential,
    SchNet,
    SchNetConfig,
)
from equikern.testing import as_on_a_device

CONFIG = PaiNNConfig(2, 8, 4, "bessel", 8, 3, 3.0)
ELEMENTS = [1, 6, 8]
CELL = torch.tensor([[4.1, 0.0, 0.3], [0.4, 5.0, -0.2], [0.0, 0.7, 4.5]], dtype=torch.float64)
SMALL_CELL = torch.tensor([[2.4, 0.0, 0.0], [0.9, 2.2, 0.0], [0.0, 0.3, 6.0]], dtype=torch.float64)


class ByPositions(torch.nn.Module):
    """A model that reads positions beside the edges: pairs, and the distance from the centroid."""

    uses_positions = True

    def __init__(self):
        super().__init__()
        self.config, self.weight = CONFIG, torch.nn.Parameter(torch.tensor([0.3, 0.7, 1.1]))

    def forward(self, species, edge_vec, edge_index, graph=None, *, positions, batch):
        count = torch.bincount(batch).to(positions.dtype).unsqueeze(1)
        centroid = positions.new_zeros(len(count), 3).index_add(0, batch, positions) / count
        pairs = (-edge_vec.square().sum(1)).exp() * (edge_vec[:, 0] * positions[edge_index[0], 1]).sin()
        out = self.weight[species] * (positions - centroid[batch]).square().sum(1)
        return out.index_add(0, edge_index[1], pairs)


def potential(dtype=torch.float64, **options):
    torch.manual_seed(0)
    return Potential(PaiNN(CONFIG).to(dtype), ELEMENTS, **options)


def structure(atoms=6, seed=0):
    """Atomic numbers, and positions in a box of 4 A."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.tensor(ELEMENTS)[torch.randint(3, (atoms,), generator=generator)]
    return numbers, torch.rand(atoms, 3, generator=generator, dtype=torch.float64) * 4


def close(a, b, digits=11):
    torch.testing.assert_close(a, b, rtol=10.0**-digits, atol=10.0**-digits)


def same(found, expected):
    for name, value in expected.items():
        assert (found[name] - value).abs().max() <= 1e-11 * value.abs().max().clamp(min=1), name


def numerical_forces(energy, positions, h=1e-4):
    forces = torch.zeros_like(positions)
    for k in range(positions.numel()):
        step = torch.zeros_like(positions)
        step.view(-1)[k] = h
        forces.view(-1)[k] = (energy(positions - step) - energy(positions + step)) / (2 * h)
    return forces


def numerical_strain(energy, h=1e-5):
    """dE/d(strain), the strain symmetric."""
    found = torch.zeros(3, 3, dtype=torch.float64)
    for i in range(3):
        for j in range(3):
            step = torch.zeros(3, 3, dtype=torch.float64)
            step[i, j] = h
            step = (step + step.T) / 2
            found[i, j] = (energy(torch.eye(3) + step) - energy(torch.eye(3) - step)) / (2 * h)
    return found


MODELS = {
    "PaiNN": lambda: PaiNN(CONFIG),
    "SchNet": lambda: SchNet(SchNetConfig(2, 8, 8, 8, 3, 3.0)),
    "DeepPot-SE": lambda: DeepPotSE(DeepPotSEConfig(3.0, 0.5, (6, 6, 6), (4, 8), 4, (8, 8))),
}


def made(name):
    torch.manual_seed(0)
    model = ByPositions() if name == "positions" else MODELS[name]()
    if isinstance(model, DeepPotSE):
        model.environment.deviation.fill_(0.1)
    return Potential(model.double(), ELEMENTS, reference_energies=[-1.0, -2.0, -3.0], scale=1.7, shift=0.3)


@pytest.fixture(params=MODELS)
def local_potential(request):
    """Of a model that sees the neighbours alone."""
    return made(request.param)


@pytest.fixture(params=[*MODELS, "positions"])
def any_potential(request):
    return made(request.param)


@pytest.mark.parametrize("cell", [None, CELL, SMALL_CELL], ids=["molecule", "crystal", "thin"])
def test_forces_and_stress_are_derivatives_of_the_energy(any_potential, cell):
    numbers, positions = structure()
    found = any_potential.predict(numbers, positions, cell)
    energy = lambda x, c=cell: any_potential.predict(numbers, x, c)["energy"]  # noqa: E731
    expected = numerical_forces(energy, positions)
    assert (found["forces"] - expected).abs().max() <= 1e-6 * max(1, found["forces"].abs().max())
    if cell is not None:
        strained = numerical_strain(lambda turn: energy(positions @ turn, cell @ turn))
        torch.testing.assert_close(found["stress"], strained / cell.det(), rtol=0, atol=1e-7)
        assert found["stress"].abs().max() > 1e-4


def test_the_virial_of_a_molecule_is_minus_the_derivative_by_strain(any_potential):
    numbers, positions = structure()
    strained = numerical_strain(lambda turn: any_potential.predict(numbers, positions @ turn)["energy"])
    torch.testing.assert_close(any_potential(numbers, positions)["virial"][0], -strained, rtol=0, atol=1e-6)


def test_layers_and_native_gradients_are_one_function():
    model = potential(scale=1.7)
    numbers, positions = structure()
    native = model(numbers, positions, CELL)
    layers = model(numbers, positions.clone().requires_grad_(), CELL)
    for name, value in native.items():
        close(layers[name].detach(), value.detach())


def test_a_batch_of_crystals_and_molecules_is_as_each_alone(any_potential):
    parts = [structure(n, seed=n) for n in (5, 3, 4)]
    cells = torch.stack([CELL, torch.zeros_like(CELL), SMALL_CELL])
    batch = torch.tensor([0] * 5 + [1] * 3 + [2] * 4)
    order = torch.randperm(12)
    numbers, positions = (torch.cat([part[k] for part in parts]) for k in (0, 1))
    found = any_potential(numbers[order], positions[order], cells, batch=batch[order])
    alone = [any_potential.predict(*part, c if c.any() else None) for part, c in zip(parts, cells, strict=True)]
    close(found["energy"].detach(), torch.stack([one["energy"] for one in alone]))
    close(found["forces"].detach(), torch.cat([one["forces"] for one in alone])[order])
    close(found["stress"][[0, 2]].detach(), torch.stack([alone[0]["stress"], alone[2]["stress"]]))
    assert not found["stress"][1].any()
    close(found["energies"].sum(), found["energy"].sum())


@pytest.mark.parametrize("cell", [CELL, SMALL_CELL], ids=["crystal", "thin"])
def test_atoms_may_be_given_in_any_image(local_potential, cell):
    numbers, positions = structure()
    found = local_potential.predict(numbers, positions, cell)
    moved = positions + torch.randint(-3, 4, positions.shape).double() @ cell
    wrapped = (positions @ cell.inverse() % 1) @ cell
    for other in (moved, wrapped):
        same(local_potential.predict(numbers, other, cell), found)
    assert found["forces"].abs().max() > 1e-3


@pytest.mark.parametrize("cell", [CELL, SMALL_CELL], ids=["crystal", "thin"])
def test_another_cell_of_the_lattice_changes_nothing(local_potential, cell):
    numbers, positions = structure()
    turn = torch.tensor([[1.0, 1, 0], [0, 1, 2], [0, 0, -1]], dtype=torch.float64)
    assert turn.det().round() == -1
    same(local_potential.predict(numbers, positions, turn @ cell), local_potential.predict(numbers, positions, cell))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("cell", [CELL, SMALL_CELL], ids=["crystal", "thin"])
def test_a_supercell_has_the_energy_of_its_cells(local_potential, cell, axis):
    numbers, positions = structure()
    found = local_potential.predict(numbers, positions, cell)
    wide = cell.clone()
    wide[axis] *= 2
    twice = local_potential.predict(numbers.repeat(2), torch.cat([positions, positions + cell[axis]]), wide)
    expected = {"energy": 2 * found["energy"], "forces": found["forces"].repeat(2, 1), "stress": found["stress"]}
    same(twice, expected)


def test_forces_and_their_torques_cancel(local_potential):
    numbers, positions = structure()
    forces = local_potential.predict(numbers, positions)["forces"]
    assert forces.sum(0).abs().max() < 1e-12
    assert torch.linalg.cross(positions, forces).sum(0).abs().max() < 1e-11


def test_the_loss_of_energy_forces_and_stress_has_its_gradient():
    model, (numbers, positions) = potential(), structure()
    weight = model.model.layers[0].phi[0].weight

    def loss():
        found = model(numbers, positions, CELL)
        return found["energy"].sum() + found["forces"].square().sum() + found["stress"].square().sum()

    (gradient,) = torch.autograd.grad(loss(), weight)
    step, h = torch.randn_like(weight), 1e-5
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight += sign * h * step
            values.append(loss())
            weight -= sign * h * step
    expected = (values[0] - values[1]) / (2 * h)
    assert abs((gradient * step).sum() - expected) <= 1e-6 * abs(expected)


def test_positions_that_require_gradients_have_derivatives_of_second_order():
    model, (numbers, positions) = potential(), structure(3)
    positions.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: model(numbers, x, CELL)["forces"], positions)
    assert torch.autograd.gradgradcheck(lambda x: model(numbers, x)["energy"], positions)


def test_prediction_records_nothing():
    found = potential().predict(*structure(), CELL)
    assert not any(value.requires_grad for value in found.values())


def test_energies_of_elements_are_added_in_float64():
    reference = {8: -75.0 * 27.2113, 1: -0.5 * 27.2113, 6: -38.0 * 27.2113}
    numbers, positions = structure()
    single = potential(torch.float32)
    bare = single.predict(numbers, positions)["energy"]
    shifted = potential(torch.float32, reference_energies=reference, scale=2.0, shift=0.25)
    expected = 2 * bare + 6 * 0.25 + sum(reference[z] for z in numbers.tolist())
    for model in (shifted, shifted.float()):
        found = model.predict(numbers, positions)["energy"]
        assert found.dtype is torch.float64
        assert abs(found - expected) < 1e-9


def test_float32_networks_take_differences_of_float64_positions():
    numbers, positions = structure()
    model = potential(torch.float32)
    here, there = model.predict(numbers, positions), model.predict(numbers, positions + 1e6)
    torch.testing.assert_close(here["forces"], there["forces"], rtol=0, atol=1e-6)
    double = potential().predict(numbers, positions)
    torch.testing.assert_close(here["forces"], double["forces"], rtol=0, atol=2e-5)


def test_lists_and_arrays_are_taken():
    numbers, positions = structure()
    found = potential().predict(numbers.tolist(), positions.numpy(), CELL.tolist())
    assert torch.equal(found["forces"], potential().predict(numbers, positions, CELL)["forces"])
    integers = potential().predict(np.array([1, 8], np.uint8), [[0, 0, 0], [0, 0, 1]])
    assert integers["forces"].shape == (2, 3)


def test_a_neighbour_list_at_hand_is_used():
    model, (numbers, positions) = potential(), structure()
    listed = VerletList(model.cutoff, 0.5)
    for _ in range(3):
        positions = positions + 0.02
        found = model(numbers, positions, CELL, edges=listed(positions, CELL))
        close(found["forces"].detach(), model.predict(numbers, positions, CELL)["forces"])
    assert listed.searches == 1
    with pytest.raises(ShapeError, match="edges are those of 6 atoms"):
        model(numbers[:5], positions[:5], CELL, edges=listed(positions, CELL))


@pytest.mark.parametrize("name", ZOO)
def test_edges_beyond_the_cutoff_change_nothing(name):
    model, (numbers, positions) = ZOO[name].potential(), structure(8)
    positions = 1.5 * positions
    near, far = (neighbours(positions, model.cutoff + skin) for skin in (0, 2))
    assert near.edge_index.shape[1] < far.edge_index.shape[1]
    found, expected = (model(numbers, positions, edges=edges) for edges in (far, near))
    same(found, expected)


def kept(changed, value, **given):
    """A step of a kept list, then another where numpy wrote to what was given; and one of a new list for comparison."""
    model, (numbers, positions) = made("PaiNN"), structure()
    array = given[changed].numpy() if changed in given else numbers.numpy()
    edges = neighbours(positions, model.cutoff, CELL)
    given = {"cell": CELL} | given
    model(numbers, positions, **given, edges=edges)
    array[...] = value
    found = model(numbers, positions, **given, edges=edges)
    fresh = neighbours(positions, model.cutoff, CELL)
    return found, model(numbers.clone(), positions, **{n: t.clone() for n, t in given.items()}, edges=fresh)


@pytest.mark.parametrize(
    ("changed", "value", "given"),
    [
        ("numbers", 6, {}),
        ("cell", 1.1 * CELL.numpy(), {"cell": CELL.clone()}),
        ("pbc", True, {"pbc": torch.tensor([True, True, False])}),
        ("batch", [0, 0, 0, 1, 1, 1], {"cell": torch.stack([CELL, CELL]), "batch": torch.zeros(6, dtype=torch.int64)}),
    ],
    ids=["numbers", "cell", "pbc", "batch"],
)
def test_what_numpy_wrote_between_steps_counts(changed, value, given):
    found, expected = kept(changed, value, **given)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
    with pytest.raises(EquikernError, match=r"atomic numbers \[7\]"):
        kept("numbers", 7)
    with pytest.raises(EquikernError, match="no volume"):
        kept("cell", 0.0, cell=CELL.clone(), pbc=torch.tensor(True))


@pytest.mark.parametrize("changed", ["batch", "pbc"])
def test_values_that_come_back_are_the_ones_that_were(changed):
    model, (numbers, positions) = made("SchNet"), structure()
    given = {"batch": torch.tensor([0, 0, 0, 1, 1, 1]), "pbc": torch.ones(2, 3, dtype=torch.bool)}
    edges, cells = neighbours(positions, model.cutoff), torch.stack([CELL, CELL])
    step = lambda: model(numbers, positions, cells, **given, edges=edges)  # noqa: E731
    first, again = given[changed], given[changed].clone()
    expected = step()
    first.zero_()
    given[changed] = again
    for name, value in step().items():
        assert torch.equal(value, expected[name]), name


def test_potentials_of_other_elements_share_a_list():
    model, (numbers, positions) = made("SchNet"), structure()
    other = Potential(model.model, ELEMENTS[::-1], reference_energies=[1.0, 2.0, 5.0])
    edges = neighbours(positions, model.cutoff)
    for one in (model, other, model):
        assert torch.equal(one(numbers, positions, edges=edges)["energy"], one(numbers, positions)["energy"])


# --- on a device, with a list at hand, where values are not looked at: here on the CPU, which is treated as one


def crystal_and_molecule():
    (numbers, positions), cells = structure(8), torch.stack([CELL, torch.zeros(3, 3)])
    return numbers, positions, cells, torch.tensor([0] * 5 + [1] * 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("grad", [False, True], ids=["evaluation", "training"])
def test_on_a_device_properties_have_the_same_bits(grad, dtype):
    model, (numbers, positions, cells, batch) = made("SchNet").to(dtype), crystal_and_molecule()
    positions = positions.to(dtype)
    edges = neighbours(positions, model.cutoff, cells, batch=batch)
    positions.requires_grad_(grad)
    expected = model(numbers, positions, cells, batch=batch, edges=edges)
    with as_on_a_device():
        found = model(numbers, positions, cells, batch=batch, edges=edges)
    for name, value in expected.items():
        assert torch.equal(found[name], value) and found[name].dtype is value.dtype, name


def change_by_overlap(positions):
    positions[6] = positions[5] + 1e-8


def change_to_nan(positions):
    positions[7, 1] = torch.nan


def change_to_infinity(positions):
    positions[7, 1] = torch.inf


@pytest.mark.parametrize("change", [change_by_overlap, change_to_nan, change_to_infinity])
def test_on_a_device_a_structure_that_cannot_be_evaluated_is_nan_and_the_others_are_as_they_were(any_potential, change):
    numbers, positions, cells, batch = crystal_and_molecule()
    positions[7] += 100  # an atom without neighbours
    edges = neighbours(positions, 8.0, cells, batch=batch)
    expected = any_potential(numbers, positions, cells, batch=batch, edges=edges)
    change(positions)
    with pytest.raises(EquikernError, match=r"overlap|finite"):
        any_potential(numbers, positions, cells, batch=batch, edges=edges)
    with as_on_a_device():
        found = any_potential(numbers, positions, cells, batch=batch, edges=edges)
        with pytest.raises(EquikernError, match=r"overlap|finite"):
            any_potential(numbers, positions, batch=batch)
    for name, value in expected.items():
        sound = batch == 0 if len(value) == len(batch) else torch.tensor([True, False])
        assert found[name][~sound].isnan().all(), name
        close(found[name][sound], value[sound])


def test_on_a_device_the_derivatives_of_atoms_that_overlap_are_nan():
    model, (numbers, positions, cells, batch) = made("SchNet"), crystal_and_molecule()
    edges = neighbours(positions, 8.0, cells, batch=batch)
    change_by_overlap(positions)
    positions.requires_grad_()
    with as_on_a_device():
        energy = model(numbers, positions, cells, batch=batch, edges=edges)["energy"]
    (gradient,) = torch.autograd.grad(energy.sum(), positions)
    assert gradient[batch == 1].isnan().any(1).all() and gradient[batch == 0].isfinite().all()


def test_on_a_device_what_the_host_sees_is_refused():
    model, (numbers, positions, cells, batch) = made("SchNet"), crystal_and_molecule()
    edges = neighbours(positions, model.cutoff, cells, batch=batch)
    with as_on_a_device():
        step = lambda: model(numbers, positions, cells, pbc=pbc, batch=batch, edges=edges)  # noqa: E731
        pbc = torch.tensor([[True] * 3, [False] * 3])
        step()
        for tensor, wrong, words in (
            (numbers, 7, r"numbers \[7\]"),
            (pbc, True, "no volume"),
            (batch, 2, "structures"),
        ):
            before, tensor[-1] = tensor[-1].clone(), wrong
            for _ in range(2):
                with pytest.raises((EquikernError, ShapeError), match=words):
                    step()
            tensor[-1] = before
            step()


@pytest.mark.parametrize("cell", [None, 9 * torch.eye(3).double()])
def test_one_atom_has_its_energy_and_no_force(cell):
    found = potential(reference_energies=[1.0, 2, 4]).predict([8], torch.zeros(1, 3), cell)
    assert found["energy"].isfinite() and not found["forces"].any()
    if cell is not None:
        assert not found["stress"].any()


def test_the_state_restores_energies_and_refuses_other_elements():
    given = dict(reference_energies=[-1.0, -2.0, -3.0], scale=1.5, shift=0.1)
    state = potential(**given).state_dict()
    fresh = Potential(PaiNN(CONFIG).double(), ELEMENTS)
    fresh.load_state_dict(state)
    assert fresh.predict(*structure())["energy"] == potential(**given).predict(*structure())["energy"]
    with pytest.raises(EquikernError, match=r"elements \[1, 6, 8\]; this one has \[1, 6, 7\]"):
        Potential(PaiNN(CONFIG).double(), [1, 6, 7]).load_state_dict(state)


def test_atoms_on_one_place_are_named():
    numbers, positions = structure()
    positions[4] = positions[1] + 1e-8
    with pytest.raises(EquikernError, match=r"atoms [14] and [14] .*overlap"):
        potential().predict(numbers, positions)
    with pytest.raises(EquikernError, match=r"atoms [14] and [14] .*overlap"):
        potential().predict(numbers, positions.index_add(0, torch.tensor([4]), 2 * CELL[:1]), CELL)


@pytest.mark.parametrize(
    ("numbers", "positions", "cell", "error", "words"),
    [
        ([1, 7], torch.eye(3)[:2], None, EquikernError, "atomic numbers \\[7\\]; its elements are \\[1, 6, 8\\]"),
        ([1, -1], torch.eye(3)[:2], None, EquikernError, "atomic numbers \\[-1\\]"),
        ([1, 500], torch.eye(3)[:2], None, EquikernError, "atomic numbers \\[500\\]"),
        ([1.0, 6.0], torch.eye(3)[:2], None, ShapeError, "integers"),
        ([1, 6, 8], torch.eye(3)[:2], None, ShapeError, "need \\(2,\\) integers"),
        ([1, 6], torch.eye(3)[:2] * torch.inf, None, EquikernError, "finite"),
        ([1, 6], torch.eye(3)[:2], torch.zeros(3, 3), EquikernError, "no volume"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(numbers, positions, cell, error, words):
    with pytest.raises(error, match=words):
        potential().predict(numbers, positions, cell)


def test_a_model_that_names_no_cutoff_is_refused():
    with pytest.raises(EquikernError, match=r"Linear .*cutoff and num_species"):
        Potential(torch.nn.Linear(2, 2), ELEMENTS)


@pytest.mark.parametrize(
    ("elements", "options", "words"),
    [
        ([], {}, "at least one"),
        ([1, 1], {}, "different"),
        ([1, 119], {}, "atomic numbers"),
        ([1, 6, 7, 8, 9, 10], {}, "num_species=5"),
        ([1, 6], {"reference_energies": {1: 0.0}}, "lack atomic numbers \\[6\\]"),
        ([1, 6], {"reference_energies": [0.0]}, "2 elements need"),
        ([1, 6], {"reference_energies": [0.0, float("nan")]}, "finite"),
    ],
)
def test_a_potential_that_cannot_be_is_refused(elements, options, words):
    with pytest.raises(EquikernError, match=words):
        Potential(PaiNN(PaiNNConfig(2, 8, 4, "bessel", 8, 5, 3.0)), elements, **options)
