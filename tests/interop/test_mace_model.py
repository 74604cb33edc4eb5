"""Models of mace-torch as potentials of `models.MACE`: the same energies, forces and stress, and what is refused."""

import copy
import functools
import re
import warnings

import pytest
import torch

import equikern
from equikern.errors import EquikernError
from equikern.interop import from_mace
from equikern.testing.potentials import mace, mace_input

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("mace.modules", reason="mace-torch is not installed (it needs e3nn 0.4.4)")
build = pytest.importorskip("ase.build", reason="ase is not installed")

NUMBERS = [11, 17, 19]
SMALL = {"hidden_irreps": "8x0e+8x1o", "max_ell": 2, "correlation": 2, "radial_MLP": [16, 16], "dtype": "float64"}


@pytest.fixture(autouse=True)
def quiet():
    """MACE's own calls of torch are deprecated ones."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@functools.cache
def crystal():
    """Rattled rock salt with a K."""
    atoms = build.bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    atoms.symbols[0] = "K"
    atoms.rattle(0.1, seed=0)
    return atoms


def theirs(model, **options):
    like = next(model.parameters())
    out = model(mace_input(crystal(), NUMBERS, like.dtype), compute_stress=True, **options)
    return {"energy": out["energy"].view(()), "forces": out["forces"], "stress": out["stress"].view(3, 3)}


def ours(potential):
    atoms = crystal()
    return potential.predict(atoms.numbers, atoms.positions, atoms.cell.array)


@pytest.mark.parametrize(
    "options",
    [
        {"max_ell": 3, "correlation": [3, 1]},
        {"max_ell": 3, "correlation": 3, "hidden_irreps": "4x0e+4x1o+4x2e"},
        {"model": "MACE", "first": "RealAgnosticResidualInteractionBlock"},
        {"num_interactions": 3, "num_bessel": 5, "num_polynomial_cutoff": 6},
        {"hidden_irreps": "4x0e", "correlation": 4, "max_ell": 1},
        {"num_interactions": 1},
    ],
    ids=lambda options: "-".join(options),
)
def test_energies_forces_and_stress_are_those_of_mace(options):
    model = mace(NUMBERS, **(SMALL | options))
    expected, got = theirs(model), ours(from_mace(model))
    assert expected["forces"].abs().max() > 1e-6
    for name, e in expected.items():
        assert (got[name] - e).abs().max() <= 1e-8 * e.abs().max(), name


def test_vector_features_are_those_of_mace():
    """An energy is the same where every vector is turned round; features are not."""
    model, seen = mace(NUMBERS, **SMALL), []
    potential = from_mace(model)
    for layer in (model.products[0], potential.model.layers[0]):
        layer.register_forward_hook(lambda _, __, out: seen.append(out))
    theirs(model), ours(potential)
    expected, got = seen
    assert expected[:, 8:].abs().max() > 1e-3
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


def test_float32_models_become_float32_potentials():
    model = mace(NUMBERS, **(SMALL | {"dtype": "float32"}))
    potential = from_mace(model)
    assert {p.dtype for p in potential.parameters()} == {torch.float32}
    for name, e in theirs(model.double()).items():
        assert (ours(potential)[name] - e).abs().max() <= 1e-4 * e.abs().max(), name


def test_gradients_of_a_training_loss_are_as_long_as_those_of_mace():
    model, atoms = mace(NUMBERS, **SMALL), crystal()
    potential = from_mace(model)
    out = theirs(model, training=True)
    cell = torch.tensor(atoms.cell.array)
    found = potential.train()(torch.tensor(atoms.numbers), torch.tensor(atoms.positions), cell)
    lengths = []
    # Symmetric contractions have other weights, and the embedding another scale.
    for result, module, kept in (
        (out, model, r"interactions|readouts"),
        (found, potential, r"linear|radial|skip|readouts"),
    ):
        loss = 1e4 * result["forces"].square().sum() + (result["energy"] + 18).square().sum()
        named = [p for n, p in module.named_parameters() if re.search(kept, n) and "product" not in n]
        gradients = torch.autograd.grad(loss, named, allow_unused=True, materialize_grads=True)
        lengths.append(sorted(float(g.norm()) for g in gradients))
    assert len(lengths[0]) == len(lengths[1]) > 10
    torch.testing.assert_close(*map(torch.tensor, lengths), rtol=1e-7, atol=1e-9)


def test_an_accelerated_model_can_be_read_and_stays_as_it_is():
    model = equikern.accelerate(mace(NUMBERS, **SMALL))
    before = copy.deepcopy(model.state_dict())
    potential = from_mace(model)
    with torch.no_grad():
        next(potential.parameters()).zero_()
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"apply_cutoff": False}, "radial functions"),
        ({"radial_type": "gaussian"}, "radial functions"),
        ({"use_agnostic_product": True}, "elements share"),
        ({"distance_transform": "Agnesi"}, "transformed distances"),
        ({"pair_repulsion": True}, "pair repulsion"),
        ({"first": "RealAgnosticDensityInteractionBlock"}, "interaction blocks"),
        ({"others": "RealAgnosticInteractionBlock"}, "interaction blocks"),
        ({"use_so3": True}, "other parities"),
        ({"hidden_irreps": "8x0e+8x0o+8x1o", "max_ell": 2}, "other parities"),
        ({"use_last_readout_only": True}, "without a readout"),
        ({"gate": torch.tanh}, "six atoms other energies"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_what_the_model_has_not_is_refused_by_name(options, message):
    with pytest.raises(EquikernError, match=message):
        from_mace(mace(NUMBERS, **(SMALL | {"max_ell": 1, "correlation": 1} | options)))


def test_another_module_is_refused():
    with pytest.raises(EquikernError, match="ScaleShiftMACE"):
        from_mace(torch.nn.Linear(2, 2))
