"""DeepPot-SE with DeePMD-kit's weights is DeePMD-kit's model."""

import numpy as np
import pytest
import torch

from equikern.errors import EquikernError
from equikern.interop import deepmd

get_model = pytest.importorskip(
    "deepmd.dpmodel.model.model",
    reason="deepmd-kit is not installed: pip install deepmd-kit, in an environment of its own",
).get_model
DESCRIPTOR = {
    "type": "se_e2_a", "sel": [30, 40], "rcut": 4.0, "rcut_smth": 0.9, "neuron": [3, 6, 6], "axis_neuron": 4, "seed": 1,
    "precision": "float64",
}  # fmt: skip
FITTING = {"neuron": [5, 5], "resnet_dt": True, "seed": 2, "precision": "float64"}
CELL = np.array([[4.5, 0, 0], [1.1, 4.2, 0], [-0.3, 0.8, 5.0]])


def theirs(descriptor=(), fitting=(), **options):
    """A model with random weights, statistics and energies of types."""
    given = {
        "type_map": ["O", "H"],
        "descriptor": DESCRIPTOR | dict(descriptor),
        "fitting_net": FITTING | dict(fitting),
    }
    model, random = get_model(given | options), np.random.default_rng(0)
    mean, deviation = np.zeros((2, 70, 4)), np.ones((2, 70, 4))
    mean[:, :, 0] = random.uniform(0.02, 0.2, (2, 1))
    deviation[:, :, 0] = random.uniform(0.1, 0.5, (2, 1))
    deviation[:, :, 1:] = random.uniform(0.1, 0.5, (2, 1, 1))
    model.atomic_model.descriptor.set_stat_mean_and_stddev(mean, deviation)
    model.atomic_model.fitting_net.bias_atom_e = random.normal(size=(2, 1))
    model.atomic_model.out_bias = random.normal(size=(1, 2, 1))
    return model


@pytest.mark.parametrize("cell", [None, CELL], ids=["molecule", "crystal"])
@pytest.mark.parametrize("one_side", [True, False], ids=["one side", "pairs"])
@pytest.mark.parametrize("resnet_dt", [True, False])
def test_energies_are_theirs(one_side, resnet_dt, cell):
    model = theirs({"type_one_side": one_side}, {"resnet_dt": resnet_dt})
    random = np.random.default_rng(1)
    positions, kinds = random.uniform(0, 4, (7, 3)), random.integers(0, 2, 7)
    boxes = None if cell is None else cell.reshape(1, 9)
    expected = model.call(positions.reshape(1, -1), kinds.reshape(1, -1), boxes)
    ours = deepmd.potential(model, [8, 1])
    numbers, cells = torch.tensor([8, 1])[torch.from_numpy(kinds)], None if cell is None else torch.from_numpy(cell)
    found = ours(numbers, torch.from_numpy(positions), cells)
    np.testing.assert_allclose(found["energies"].detach(), expected["atom_energy"][0, :, 0], rtol=1e-11, atol=1e-11)
    assert expected["atom_energy"].std() > 1e-3
    assert found["forces"].abs().max() > 1e-3


@pytest.mark.parametrize(
    ("descriptor", "fitting", "options", "words"),
    [
        ({"type": "se_e2_r", "axis_neuron": None}, {}, {}, "se_e2_a"),
        ({"activation_function": "relu"}, {}, {}, "tanh"),
        ({"resnet_dt": True}, {}, {}, "resnet_dt"),
        ({"exclude_types": [[0, 1]]}, {}, {}, "excluded types"),
        ({}, {}, {"pair_exclude_types": [[0, 1]]}, "excluded types"),
        ({}, {"numb_fparam": 2}, {}, "frame or atomic parameters"),
    ],
)
def test_what_is_not_read_is_refused(descriptor, fitting, options, words):
    given = {key: value for key, value in (DESCRIPTOR | descriptor).items() if value is not None}
    fitting = FITTING | fitting
    model = get_model({"type_map": ["O", "H"], "descriptor": given, "fitting_net": fitting} | options)
    with pytest.raises(EquikernError, match=words):
        deepmd.potential(model, [8, 1])
