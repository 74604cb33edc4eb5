"""`from_mace`: a model of the mace-torch package as `models.MACE`, with its weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from equikern.errors import EquikernError
from equikern.interop import weights
from equikern.interop.mace import ContractionSwap, contraction_swap
from equikern.models import MACE, MACEConfig
from equikern.nn import SymmetricContraction
from equikern.o3 import Irreps
from equikern.program.symmetric import basis

RESIDUAL = {"RealAgnosticInteractionBlock": False, "RealAgnosticResidualInteractionBlock": True}
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


def mace_model(theirs: Any) -> tuple[MACE, Tensor]:
    """A `MACE` or `ScaleShiftMACE` of mace-torch 0.3 as ours, with its weights and dtype; reference energies (Z,).

    Their scale is in `readouts`' last weights ...
    """
    config = _config(theirs)
    like = next(theirs.parameters())
    ours = MACE(config).to(like)
    weights.copy(ours.embedding.weight, theirs.node_embedding.linear.weight * config.num_species**-0.5)
    for layer, block, product in zip(ours.layers, theirs.interactions, theirs.products, strict=True):
        weights.copy_linear(layer.linear_up, block.linear_up)
        weights.copy_radial(
            layer.convolution,
            [part.weight for part in block.conv_tp_weights],
            block.conv_tp,
            scale=1 / config.avg_num_neighbors,
            flip=True,
        )
        weights.copy_linear(layer.linear, block.linear)
        weights.copy_self_connection(layer.skip, block.skip_tp)
        copy_contraction(layer.power, product.symmetric_contractions)
        weights.copy_linear(layer.product_linear, product.linear)
    for readout, other in zip(ours.readouts, theirs.readouts, strict=True):
        maps = [other.linear] if hasattr(other, "linear") else [other.linear_1, other.linear_2]
        weights.copy_mlp(readout, [m.weight for m in maps])
    return ours.train(theirs.training), theirs.atomic_energies_fn.atomic_energies.detach().double().cpu().view(-1)


def copy_contraction(ours: SymmetricContraction, theirs: nn.Module) -> None:
    """The weights of MACE's symmetric contraction, whose polynomials are other combinations of ours."""
    swap = contraction_swap(theirs)
    if not isinstance(swap, ContractionSwap):
        raise EquikernError(f"a symmetric contraction of the model cannot be read: {swap}.")
    terms = swap.matrix @ torch.cat([w.detach().double().cpu() for w in swap._weights()], 1)  # (Z, terms, C)
    matrix = torch.tensor(basis(ours.program.text).matrix)  # (terms, polynomials)
    found = torch.linalg.lstsq(matrix, terms.transpose(0, 1).flatten(1)).solution
    found = found.unflatten(1, (terms.shape[0], -1)).transpose(0, 1)
    weights.copy(ours.weight, found.contiguous())
