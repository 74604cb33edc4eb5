"""DeePMD-kit: its models of the descriptor se_e2_a as a `Potential`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from equikern.errors import EquikernError
from equikern.models import DeepPotSE, DeepPotSEConfig, Potential


def potential(model: Any, elements: Sequence[int]) -> Potential:
    """The `Potential` of an energy model of `deepmd.dpmodel`, a copy of its weights in float64.

    elements: the atomic numbers of its types, in the order of its type map. A file is read by
    `deepmd.dpmodel.model.base_model.BaseModel.deserialize(load_dp_model(file)["model"])`, load_dp_model from
    `deepmd.dpmodel.utils.serialization`. Neighbours beyond its slots count here, where DeePMD-kit drops them.
    Raises EquikernError for models of another descriptor, or with options that are not read.
    """
    atomic = model.atomic_model
    descriptor, fitting = atomic.descriptor, atomic.fitting_net
    _check(atomic, descriptor, fitting)
    kinds = len(descriptor.sel)
    config = DeepPotSEConfig(
        cutoff=descriptor.rcut,
        switch=descriptor.rcut_smth,
        slots=tuple(map(int, descriptor.sel)),
        embedding=tuple(descriptor.neuron),
        axis=descriptor.axis_neuron,
        fitting=tuple(fitting.neuron),
        one_side=descriptor.type_one_side,
    )
    found = DeepPotSE(config).double()
    environment = found.environment
    environment.mean.copy_(torch.from_numpy(descriptor.davg[:, 0, 0]))
    environment.deviation.copy_(torch.from_numpy(descriptor.dstd[:, 0, :2]))
    for number, network in enumerate(environment.embeddings):
        ends = (number,) if config.one_side else divmod(number, kinds)
        _load(network, descriptor.embeddings[ends].layers)  # type: ignore[arg-type]
    for kind, network in enumerate(found.fitting):
        *layers, last = fitting.nets[(kind,)].layers
        _load(network[0], layers)  # type: ignore[index]
        _copy(network[1], last)  # type: ignore[index]
    energies = fitting.bias_atom_e.ravel() + atomic.out_bias.ravel()
    return Potential(found, elements, reference_energies=energies.tolist())


def _check(atomic: Any, descriptor: Any, fitting: Any) -> None:
    """Raise EquikernError unless `DeepPotSE` has what the model is made of."""
    if type(descriptor).__name__ != "DescrptSeA" or type(fitting).__name__ != "EnergyFittingNet":
        raise EquikernError(
            "interop.deepmd reads energy models of the descriptor se_e2_a; got "
            f"{type(descriptor).__name__} and {type(fitting).__name__}."
        )
    refused = {
        "an activation other than tanh": {descriptor.activation_function, fitting.activation_function} != {"tanh"},
        "resnet_dt in the descriptor": descriptor.resnet_dt,
        "excluded types": bool(descriptor.exclude_types or atomic.pair_exclude_types or atomic.atom_exclude_types),
        "env_protection": descriptor.env_protection != 0,
        "frame or atomic parameters": fitting.numb_fparam + fitting.numb_aparam > 0,
        "one fitting network for all types": fitting.mixed_types,
        "a scale of the output": bool((atomic.out_std != 1).any()),
        "statistics that differ between slots": bool(np.ptp(descriptor.davg, axis=1).any())
        or bool(np.ptp(descriptor.dstd, axis=1).any())
        or bool(np.ptp(descriptor.dstd[:, :, 1:], axis=2).any())
        or bool(descriptor.davg[:, :, 1:].any()),
    }
    for what, given in refused.items():
        if given:
            raise EquikernError(f"interop.deepmd does not read models with {what}.")


def _load(network: Iterable[Any], layers: Sequence[Any]) -> None:
    for skip, layer in zip(network, layers, strict=True):
        _copy(skip.linear, layer)
        if skip.dt is not None:
            skip.dt.data.copy_(torch.ones(()) if layer.idt is None else torch.from_numpy(layer.idt))


def _copy(linear: torch.nn.Linear, layer: Any) -> None:
    linear.weight.data.copy_(torch.from_numpy(layer.w.T.copy()))
    linear.bias.data.copy_(torch.from_numpy(layer.b))
