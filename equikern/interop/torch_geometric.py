"""torch_geometric: its SchNet as a `Potential`."""

from __future__ import annotations

from math import log
from typing import Any

import torch

from equikern.errors import EquikernError
from equikern.models import Potential, SchNet, SchNetConfig


def schnet(model: Any) -> Potential:
    """The `Potential` of a `torch_geometric.nn.SchNet`, a copy of its weights in its dtype.

    Elements are 0 ... 99, as its embedding has them; `mean` and `std` are the shift and the scale, `atomref` the
    reference energies. Its graph is not read: neighbours are all within the cutoff, where torch_geometric takes 32.
    Raises EquikernError for models that are no sum of atomic energies.
    """
    if model.dipole or model.scale is not None or type(model.readout).__name__ != "SumAggregation":
        raise EquikernError(
            "interop.torch_geometric.schnet reads models with readout='add', without dipole and scale; "
            f"got readout={type(model.readout).__name__}, dipole={model.dipole}, scale={model.scale}."
        )
    expansion = model.distance_expansion
    config = SchNetConfig(
        layers=model.num_interactions,
        channels=model.hidden_channels,
        filters=model.num_filters,
        num_basis=model.num_gaussians,
        num_species=model.embedding.num_embeddings,
        cutoff=model.cutoff,
        width=(-0.5 / expansion.coeff) ** 0.5,
    )
    found = SchNet(config).to(model.embedding.weight)
    found.load_state_dict(_state(model))
    given = {} if model.atomref is None else {"reference_energies": model.atomref.weight.flatten().tolist()}
    if model.mean is not None and model.std is not None:
        given |= {"shift": float(model.mean), "scale": float(model.std)}
    return Potential(found, range(config.num_species), **given)


def _state(model: Any) -> dict[str, torch.Tensor]:
    state = {"embedding.weight": model.embedding.weight}
    linears = {"readout.0": model.lin1, "readout.2": model.lin2}
    for n, block in enumerate(model.interactions):
        layer = f"layers.{n}"
        linears |= {
            f"{layer}.inner": block.conv.lin1,
            f"{layer}.outer.0": block.conv.lin2,
            f"{layer}.outer.2": block.lin,
            f"{layer}.convolution.radial.network.0": block.mlp[0],
            f"{layer}.convolution.radial.network.2": block.mlp[2],
        }
        state[f"{layer}.convolution.radial.centres"] = model.distance_expansion.offset
    for name, linear in linears.items():
        state |= {f"{name}.{kind}": value.detach() for kind, value in linear.named_parameters()}
        if name.endswith(".2"):
            # It follows an activation, whose ln 2 torch_geometric rounds to float32: the bias takes the difference.
            state[f"{name}.bias"] = linear.bias.detach() + (log(2) - model.act.shift) * linear.weight.detach().sum(1)
    return state
