"""`from_nequip`: a model of the nequip package as `models.NequIP`, with its weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from equikern.errors import EquikernError
from equikern.interop import weights
from equikern.models import NequIP, NequIPConfig

# Their model is float64 in its lengths, whatever its weights are.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


def nequip_model(theirs: nn.Module) -> tuple[NequIP, Tensor]:
    """A `NequIPGNNModel` of nequip 0.19 as ours, with its weights and dtype, and its energy shifts (num_species,).

    Raises EquikernError for what `models.NequIP` has not: cutoffs or neighbour counts by type, trained Bessel
    functions, pair potentials, embedded graph fields, residual layers, other nonlinearities.
    """
    parts = _parts(theirs)
    convolutions = [part for name, part in parts.items() if name.endswith("_convnet")]
    config = _config(parts, convolutions)
    like = parts["type_embed"].embed_module.weight
    ours = NequIP(config).to(like)
    weights.copy(ours.embedding.weight, like)
    for layer, other in zip(ours.layers, convolutions, strict=True):
        block: Any = other.conv
        scale = float(block.avg_num_neighbors_norm.norm_const)
        weights.copy_linear(layer.linear_1, block.linear_1)
        weights.copy_radial(layer.convolution, _weights(block.edge_mlp), block.tp_scatter.tp, scale=scale)
        weights.copy_linear(layer.linear_2, block.linear_2)
        if (layer.self_connection is None) != (block.sc is None):
            raise _lacks("self-connections in other layers than all but the first")
        if block.sc is not None:
            weights.copy_self_connection(layer.self_connection, block.sc)
    weights.copy_mlp(ours.readout, _weights(parts["per_atom_energy_readout"].mlp_module))
    last = parts["per_type_energy_scale_shift"]
    ones, zeros = torch.ones(config.num_species), torch.zeros(config.num_species, dtype=torch.float64)
    if last.has_scales:
        weights.copy(ours.scale, ones.to(last.scales) * last.scales.view(-1))
    shifts = zeros + last.shifts.detach().cpu().view(-1) if last.has_shifts else zeros
    _check(ours, shifts, parts)
    return ours.train(theirs.training), shifts


def _parts(theirs: nn.Module) -> dict[str, Any]:
    """The model's modules in order, by name."""
    for module in theirs.modules():
        names = dict(module.named_children())
        if "type_embed" in names and "per_type_energy_scale_shift" in names:
            return names
    raise EquikernError("from_nequip reads models built by nequip.model.NequIPGNNModel; this is another one.")


def _config(parts: dict[str, Any], convolutions: list[Any]) -> NequIPConfig:
    embed, norm, encode = parts["type_embed"], parts["edge_norm"], parts["bessel_encode"]
    if embed.do_categorical_graph_field_embed:
        raise _lacks("embeddings of graph fields")
    if "pair_potential" in parts:
        raise _lacks("pair potentials")
    if norm._per_edge_type:
        raise _lacks("cutoffs by pair of types")
    if isinstance(encode.bessel_weights, nn.Parameter):
        raise _lacks("trained Bessel functions")
    blocks = [layer.conv for layer in convolutions]
    if any(block.avg_num_neighbors_norm.norm_const.numel() > 1 for block in blocks):
        raise _lacks("numbers of neighbours by type")
    if any(layer.resnet for layer in convolutions) or not all(
        hasattr(c.equivariant_nonlin, "sc") for c in convolutions
    ):
        raise _lacks("residual layers or nonlinearities of norms")
    widths = {tuple(block.edge_mlp.dims[1:-1]) for block in blocks}
    if len(widths) > 1:
        raise _lacks("radial networks of different widths")
    lmax = parts["spharm"].irreps_edge_sh.lmax
    hidden = convolutions[0].feature_irreps_hidden
    channels = {ir.l: mul for mul, ir in hidden}
    last = convolutions[-1].feature_irreps_hidden.dim
    return NequIPConfig(
        cutoff=1 / float(norm._rmax_recip),
        num_species=embed.embed_module.num_embeddings,
        layers=len(convolutions),
        lmax=lmax,
        channels=tuple(channels.get(n, last) for n in range(lmax + 1)),
        parity=any(ir.p != (-1) ** ir.l for _, ir in hidden),
        attributes=embed.embed_module.embedding_dim,
        num_basis=encode.num_bessels,
        cutoff_power=int(encode.cutoff.p),
        radial=widths.pop(),
        readout=tuple(parts["per_atom_energy_readout"].mlp_module.dims[1:-1]),
        avg_num_neighbors=float(blocks[0].avg_num_neighbors_norm.norm_const) ** -2,
    )


def _weights(network: Any) -> list[Tensor]:
    """Of a ScalarMLPFunction, for the gain of ours."""
    if any(layer.weight is None or layer.bias is not None for layer in network.mlp if hasattr(layer, "alpha")):
        raise _lacks("networks with a bias")
    return [layer.weight for layer in network.mlp if hasattr(layer, "alpha")]


def _lacks(what: str) -> EquikernError:
    return EquikernError(
        f"models.NequIP has no {what}, which this model has; equikern.accelerate(model) runs it as it is."
    )


def _check(ours: NequIP, shifts: Tensor, parts: dict[str, Any]) -> None:
    """Raise EquikernError unless both give the same energies of a few atoms."""
    like = ours.embedding.weight
    generator = torch.Generator().manual_seed(0)
    cutoff, species = ours.config.cutoff, torch.arange(6) % ours.config.num_species
    positions = torch.rand(6, 3, generator=generator, dtype=torch.float64) * cutoff
    receiver, sender = (torch.cdist(positions, positions) < cutoff).fill_diagonal_(False).nonzero().T
    data: dict[str, Tensor] = {
        "pos": positions.to(like.device),
        "edge_index": torch.stack([receiver, sender]).to(like.device),
        "atom_types": species.to(like.device),
    }
    with torch.no_grad():
        for name, part in parts.items():
            if name == "total_energy_sum":
                break
            data = part(data)
        expected = data["atomic_energy"].view(-1).double().cpu()
        edges = torch.stack([sender, receiver]).to(like.device)
        vec = (positions[sender] - positions[receiver]).to(like)
        got = ours(species.to(like.device), vec, edges).double().cpu() + shifts[species]
    if not (got - expected).abs().max() <= TOLERANCE[like.dtype] * expected.abs().max():
        raise _lacks("part of what is here: its energies are others, and with that the")


def from_nequip(theirs: nn.Module, elements: Sequence[int] | None = None) -> Any:
    raise NotImplementedError
