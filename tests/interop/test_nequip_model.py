"""Models of nequip as potentials of `models.NequIP`: the same energies, forces and stress, and what is refused."""

import copy
import functools
import warnings

import pytest
import torch

import equikern
from equikern.errors import EquikernError
from equikern.interop import from_nequip
from equikern.testing.potentials import nequip, nequip_input

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("nequip.model", reason="nequip is not installed")
build = pytest.importorskip("ase.build", reason="ase is not installed")

SPECIES = ["Na", "Cl", "K"]
SMALL = {"num_features": 8, "num_layers": 2, "radial_mlp_width": 16, "avg_num_neighbors": 20.0, "dtype": "float64"}


@pytest.fixture(autouse=True)
def quiet():
    """lightning and NequIP warn about the machine and about options."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@functools.cache
def crystal():
    """Rattled rock salt, where Na has a K neighbour."""
    atoms = build.bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    atoms.symbols[0] = "K"
    atoms.rattle(0.1, seed=0)
    return atoms


def theirs(model):
    out = model(nequip_input(crystal(), SPECIES))
    return {"energy": out["total_energy"].view(()), "forces": out["forces"], "stress": out["stress"].view(3, 3)}


def ours(potential):
    atoms = crystal()
    return potential.predict(atoms.numbers, atoms.positions, atoms.cell.array)


@pytest.mark.parametrize(
    "options",
    [
        {"parity": True, "num_layers": 3},
        {"parity": False, "num_layers": 4, "l_max": 1},
        {"parity": True, "l_max": 3, "num_features": [8, 4, 6, 2], "type_embed_num_features": 5},
        {"readout_mlp_hidden_layers_depth": 1, "radial_mlp_depth": 2, "num_bessels": 5, "polynomial_cutoff_p": 4},
        {"num_layers": 1},
        {"avg_num_neighbors": {"Na": 10.0, "Cl": 30.0, "K": 9.0}},
        {
            "per_type_energy_scales": {"Na": 1.7, "Cl": 0.6, "K": 1.1},
            "per_type_energy_shifts": {"Na": -1.0, "Cl": 2.0, "K": -30.0},
        },
    ],
    ids=lambda options: "-".join(options),
)
def test_energies_forces_and_stress_are_those_of_nequip(options):
    model = nequip(SPECIES, **(SMALL | options))
    expected, got = theirs(model), ours(from_nequip(model))
    assert expected["forces"].abs().max() > 1e-3
    for name, e in expected.items():
        assert (got[name] - e).abs().max() <= 1e-10 * e.abs().max(), name


def test_vector_features_are_those_of_nequip():
    """An energy is the same where every vector is turned round; features are not."""
    model, seen = nequip(SPECIES, **(SMALL | {"parity": True})), []
    potential = from_nequip(model)
    convolution = model.model.func.layer0_convnet
    convolution.register_forward_hook(lambda _, __, out: seen.append(out["node_features"]))
    potential.model.layers[0].register_forward_hook(lambda _, __, out: seen.append(out))
    theirs(model), ours(potential)
    expected, got = seen
    assert expected[:, 8:32].abs().max() > 1e-3
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


def test_float32_models_become_float32_potentials():
    model = nequip(SPECIES, **(SMALL | {"dtype": "float32"}))
    potential = from_nequip(model)
    assert {p.dtype for p in potential.parameters()} == {torch.float32}
    for name, e in theirs(model).items():
        assert (ours(potential)[name] - e).abs().max() <= 1e-5 * e.abs().max(), name


def test_gradients_of_a_training_loss_are_as_long_as_those_of_nequip():
    model, atoms = nequip(SPECIES, **SMALL), crystal()
    potential = from_nequip(model)
    out = model.train()(nequip_input(atoms, SPECIES))
    cell = torch.tensor(atoms.cell.array)
    found = potential.train()(torch.tensor(atoms.numbers), torch.tensor(atoms.positions), cell)
    lengths = []
    for forces, energy, module in (
        (out["forces"], out["total_energy"], model),
        (found["forces"], found["energy"], potential),
    ):
        loss = forces.square().sum() + energy.square().sum()
        gradients = torch.autograd.grad(loss, [p for p in module.parameters() if p.requires_grad])
        lengths.append(sorted(float(g.norm()) for g in gradients))
    assert len(lengths[0]) == len(lengths[1]) > 8
    torch.testing.assert_close(*map(torch.tensor, lengths), rtol=1e-9, atol=1e-9)


def test_an_accelerated_model_can_be_read_and_stays_as_it_is():
    model = equikern.accelerate(nequip(SPECIES, **SMALL))
    before = copy.deepcopy(model.state_dict())
    potential = from_nequip(model)
    with torch.no_grad():
        next(potential.parameters()).zero_()
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per_edge_type_cutoff": {"Na": 3.5}}, "cutoffs by pair of types"),
        ({"bessel_trainable": True}, "trained Bessel functions"),
        ({"convnet_resnet": True, "num_layers": 3}, "residual layers"),
        ({"convnet_sc": False}, "self-connections"),
        ({"readout_mlp_hidden_layers_depth": 1, "readout_mlp_nonlinearity": "mish"}, "six atoms other energies"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_what_the_model_has_not_is_refused_by_name(options, message):
    with pytest.raises(EquikernError, match=message):
        from_nequip(nequip(SPECIES, **(SMALL | options)))


def test_types_that_are_no_elements_need_their_numbers():
    model = nequip(["Na1", "Na2"], **SMALL)
    with pytest.raises(EquikernError, match="no elements' symbols"):
        from_nequip(model)
    assert from_nequip(model, elements=[11, 19]).elements == (11, 19)


def test_another_module_is_refused():
    with pytest.raises(EquikernError, match="NequIPGNNModel"):
        from_nequip(torch.nn.Linear(2, 2))
