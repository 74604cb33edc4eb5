"""PaiNN trained on ethanol: the network's weights, read from a file, give the published predictions."""

import copy

import numpy as np
import pytest
import torch

from equikern.models import PaiNN, PaiNNConfig, Potential
from equikern.nn import force_graph

OFFSET = -10786.226809289834  # kcal/mol of an atom
MEV = 43.3641153  # in a kcal/mol


@pytest.fixture(scope="module")
def ethanol(data_dir):
    """(model in float64, species, the recorded predictions, the frames)."""
    folder = data_dir / "painn_ethanol"
    weights = {k: torch.from_numpy(v).double() for k, v in np.load(folder / "weights.npz").items()}
    model = PaiNN(PaiNNConfig(width=float(weights["rbf.widths"][0]))).double()
    state = {"embedding.weight": weights["embedding.weight"], "centres": weights["rbf.offsets"]}
    for n in range(3):
        rows = slice(384 * n, 384 * (n + 1))
        layer = {
            "phi.0": f"message.{n}.phi.0", "phi.2": f"message.{n}.phi.1", "update.0": f"update.{n}.a.0",
            "update.2": f"update.{n}.a.1", "mix": f"update.{n}.UV",
        }  # fmt: skip
        for ours, theirs in layer.items():
            for kind in ("weight", "bias") if ours != "mix" else ("weight",):
                state[f"layers.{n}.{ours}.{kind}"] = weights[f"{theirs}.{kind}"]
        state[f"layers.{n}.filter.weight"] = weights["filter.weight"][rows]
        state[f"layers.{n}.filter.bias"] = weights["filter.bias"][rows]
    for ours, theirs in (("0", "0"), ("2", "1")):
        for kind in ("weight", "bias"):
            state[f"readout.{ours}.{kind}"] = weights[f"readout.{theirs}.{kind}"]
    model.load_state_dict(state)
    frames = np.load(data_dir / "rmd17" / "rmd17_ethanol_split01.npz")
    expected = np.load(folder / "reference_predictions.npz")
    species = torch.from_numpy(frames["z"]).long()
    return model, species, expected, frames


def edges_within_the_cutoff(position):
    near = torch.cdist(position, position, compute_mode="donot_use_mm_for_euclid_dist") < 5
    return (near & ~torch.eye(len(position), dtype=torch.bool)).nonzero().T.contiguous()


def predictions(model, species, positions):
    """(energies without the offset, forces) in float64, each frame with a neighbour list of its own."""
    energies, forces = [], []
    forces_of = force_graph(model, species, edges_within_the_cutoff(positions[0]))
    for position in positions:
        forces_of.set_edges(edges_within_the_cutoff(position))
        e, f = forces_of(position.to(next(model.parameters()).dtype))
        energies.append(e)
        forces.append(f.double())
    return torch.stack(energies), torch.stack(forces)


def test_the_recorded_predictions_are_reproduced(ethanol):
    model, species, expected, frames = ethanol
    found = predictions(model, species, torch.from_numpy(frames["test_R"][expected["frame"]]))
    total = found[0] + OFFSET * len(species)
    torch.testing.assert_close(total, torch.from_numpy(expected["E"]), rtol=0, atol=1e-8)
    torch.testing.assert_close(found[1], torch.from_numpy(expected["F"]), rtol=0, atol=1e-8)


def test_a_potential_gives_the_recorded_predictions(ethanol):
    model, species, expected, frames = ethanol
    potential = Potential(model, range(100), reference_energies=[OFFSET] * 100)
    positions = torch.from_numpy(frames["test_R"][expected["frame"]])
    batch = torch.arange(len(positions)).repeat_interleave(len(species))
    with torch.no_grad():
        found = potential(species.repeat(len(positions)), positions.flatten(0, 1), batch=batch)
    torch.testing.assert_close(found["energy"], torch.from_numpy(expected["E"]), rtol=0, atol=1e-8)
    torch.testing.assert_close(found["forces"].view_as(positions), torch.from_numpy(expected["F"]), rtol=0, atol=1e-8)
    alone = potential.predict(frames["z"], positions[5])
    assert abs(alone["energy"] - expected["E"][5]) < 1e-8
    assert abs(alone["forces"] - torch.from_numpy(expected["F"][5])).max() < 1e-8


def test_the_layers_give_the_recorded_predictions(ethanol):
    model, species, expected, frames = ethanol
    position = torch.from_numpy(frames["test_R"][expected["frame"][0]]).requires_grad_()
    edges = edges_within_the_cutoff(position.detach())
    energy = model(species, position[edges[0]] - position[edges[1]], edges).sum()
    (gradient,) = torch.autograd.grad(energy, position)
    torch.testing.assert_close(-gradient, torch.from_numpy(expected["F"][0]), rtol=0, atol=1e-8)
    assert abs(energy.item() + OFFSET * len(species) - expected["E"][0]) < 1e-8


def test_errors_on_the_test_frames_are_the_published_ones(ethanol):
    model, species, _, frames = ethanol
    single = copy.deepcopy(model).float()
    energies, forces = predictions(single, species, torch.from_numpy(frames["test_R"]))
    force_error = (forces - torch.from_numpy(frames["test_F"])).abs().mean() * MEV
    energy_error = (energies + OFFSET * len(species) - torch.from_numpy(frames["test_E"])).abs().mean() * MEV
    assert abs(force_error - 7.3469) < 1e-3
    assert abs(energy_error - 1.2048) < 1e-3
