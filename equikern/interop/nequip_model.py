"""`from_nequip`: a model of the nequip package as a `Potential` of `models.NequIP`, with its weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from equikern.errors import EquikernError
from equikern.interop import weights
from equikern.models import NequIP, NequIPConfig, Potential
from equikern.models.nequip import Interaction


def from_nequip(theirs: nn.Module, elements: Sequence[int] | None = None) -> Potential:
    """A `NequIPGNNModel` of nequip 0.19 as a potential: its weights, dtype, elements, scales and shifts.

    elements: the atomic numbers of its types, by default those of their names. Both models are evaluated on a few
    atoms and compared.

    Raises EquikernError for what `models.NequIP` has not: cutoffs by pair of types, trained Bessel functions, pair
    potentials, embedded graph fields, residual layers, other nonlinearities.
    """
    parts = _parts(theirs)
    convolutions = [part for name, part in parts.items() if name.endswith("_convnet")]
    config, last = _config(parts, convolutions), parts["per_type_energy_scale_shift"]
    like = parts["type_embed"].embed_module.weight
    ours = NequIP(config).to(like)
    weights.copy(ours.embedding.weight, like)
    for layer, other in zip(ours.layers, convolutions, strict=True):
        assert isinstance(layer, Interaction)
        _copy_layer(layer, other.conv)
    weights.copy_mlp(ours.readout, _weights(parts["per_atom_energy_readout"].mlp_module))
    if last.has_scales:
        weights.copy(ours.scale, last.scales.view(-1).expand(config.num_species))
    shifts = last.shifts.view(-1).expand(config.num_species).tolist() if last.has_shifts else None
    elements = _elements(last.type_names) if elements is None else elements
    potential = Potential(ours, elements, reference_energies=shifts)
    weights.compare(potential, lambda *atoms: _energies(parts, *atoms), "NequIP")
    return potential.train(theirs.training)


def _copy_layer(layer: Interaction, block: Any) -> None:
    weights.copy(layer.norm, block.avg_num_neighbors_norm.norm_const.expand_as(layer.norm))
    weights.copy_linear(layer.linear_1, block.linear_1)
    weights.copy_radial(layer.convolution, _weights(block.edge_mlp), block.tp_scatter.tp)
    weights.copy_linear(layer.linear_2, block.linear_2)
    if (layer.self_connection is None) != (block.sc is None):
        raise weights.lacks("NequIP", "self-connections but in all layers after the first")
    if layer.self_connection is not None:
        weights.copy_self_connection(layer.self_connection, block.sc)


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
        raise weights.lacks("NequIP", "embeddings of graph fields")
    if "pair_potential" in parts:
        raise weights.lacks("NequIP", "pair potentials")
    if norm._per_edge_type:
        raise weights.lacks("NequIP", "cutoffs by pair of types")
    if isinstance(encode.bessel_weights, nn.Parameter):
        raise weights.lacks("NequIP", "trained Bessel functions")
    blocks = [layer.conv for layer in convolutions]
    if any(layer.resnet or not hasattr(layer.equivariant_nonlin, "sc") for layer in convolutions):
        raise weights.lacks("NequIP", "residual layers or nonlinearities of norms")
    widths = {tuple(block.edge_mlp.dims[1:-1]) for block in blocks}
    if len(widths) > 1:
        raise weights.lacks("NequIP", "radial networks of different widths")
    neighbours = (blocks[0].avg_num_neighbors_norm.norm_const.view(-1) ** -2).tolist()
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
        avg_num_neighbors=neighbours[0] if len(neighbours) == 1 else tuple(neighbours),
    )


def _weights(network: Any) -> list[Tensor]:
    """Of a ScalarMLPFunction, for the gain of ours."""
    if any(layer.weight is None or layer.bias is not None for layer in network.mlp if hasattr(layer, "alpha")):
        raise weights.lacks("NequIP", "networks with a bias")
    return [layer.weight for layer in network.mlp if hasattr(layer, "alpha")]


def _elements(names: Sequence[str]) -> list[int]:
    from ase.data import atomic_numbers

    unknown = [name for name in names if name not in atomic_numbers]
    if unknown:
        raise EquikernError(f"the types {unknown} are no elements' symbols; give elements=, an atomic number a type.")
    return [atomic_numbers[name] for name in names]


def _energies(parts: dict[str, Any], species: Tensor, positions: Tensor, edges: Tensor) -> Tensor:
    """The package's atomic energies (N,)."""
    data: dict[str, Tensor] = {"pos": positions, "edge_index": edges.flip(0), "atom_types": species}
    with torch.no_grad():
        for name, part in parts.items():
            data = data if name == "total_energy_sum" else part(data)
    return data["atomic_energy"].view(-1)
