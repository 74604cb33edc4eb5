"""PaiNN's op on graphs worth testing: weights, edge vectors and the arrays of a graph."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from equikern.ops import PaiNNConfig, plan


class PaiNNInputs(NamedTuple):
    """Arguments of `ops.painn` after the configuration."""

    vec: Tensor
    graph: list[Tensor]
    weights: list[Tensor]


# Channels on both sides of a vector's width, one layer (the first is the last), both bases, a trained-like size.
CONFIGS = {
    "one-layer": PaiNNConfig(1, 8, 4, "gaussian", 6, 4, 2.5),
    "odd": PaiNNConfig(2, 5, 3, "bessel", 5, 3, 2.5),
    "wide": PaiNNConfig(3, 33, 17, "gaussian", 20, 4, 2.5, width=0.3),
    "bessel": PaiNNConfig(3, 16, 16, "bessel", 20, 4, 2.5),
    "trained-size": PaiNNConfig(2, 128, 64, "gaussian", 20, 9, 2.5),
    "one-channel": PaiNNConfig(2, 1, 1, "bessel", 1, 1, 2.5),
}


def painn_inputs(config: PaiNNConfig, atoms: int, dtype: torch.dtype, seed: int = 0) -> PaiNNInputs:
    """Atoms in a box, edges in a random order up to a little beyond the cutoff; the last of many atoms is isolated."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.rand(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    positions = draw(atoms, 3) * (2.5 * atoms) ** (1 / 3)
    if atoms > 2:
        positions[-1] += 100.0
    offset = positions[:, None] - positions[None]
    near = (offset.norm(dim=2) < 1.1 * config.cutoff) & ~torch.eye(atoms, dtype=torch.bool)
    pairs = near.nonzero()
    pairs = pairs[torch.randperm(len(pairs), generator=generator)]
    sender, receiver = pairs[:, 0].contiguous(), pairs[:, 1].contiguous()
    species = torch.randint(config.num_species, (atoms,), generator=generator)
    weights = [
        torch.linspace(0, config.cutoff, *shape, dtype=dtype) if name == "centres"
        else ((draw(*shape) * 2 - 1) / (shape[-1] ** 0.5 if name.endswith("weight") else 2)).to(dtype)
        for name, shape in config.weights.items()
    ]  # fmt: skip
    plans = (*plan(sender, receiver, atoms, atoms), *plan(receiver, sender, atoms, atoms))
    vec = (positions[sender] - positions[receiver]).to(dtype)
    return PaiNNInputs(vec, [species, sender, receiver, *plans], weights)
