"""`from_mace`: a model of the mace-torch package as a `Potential` of `models.MACE`, with its weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from equikern.errors import EquikernError
from equikern.interop import weights
from equikern.interop.mace import ContractionSwap, contraction_swap
from equikern.models import MACE, MACEConfig, Potential
from equikern.models.mace import Interaction
from equikern.nn import MLP, SymmetricContraction
from equikern.program.symmetric import basis

RESIDUAL = {"RealAgnosticInteractionBlock": False, "RealAgnosticResidualInteractionBlock": True}


def from_mace(theirs: Any) -> Potential:
    """A `MACE` or `ScaleShiftMACE` of mace-torch 0.3: its weights, dtype, elements, reference energies and scale.

    Their harmonics are those of the opposite vectors; that goes into the weights, as do signs of coupling coefficients
    that differ, and their basis of symmetric polynomials. Both models are evaluated on a few atoms and compared.

    Raises EquikernError for what `models.MACE` has not: other interaction blocks or radial functions, odd scalars, pair
    repulsion, transformed distances, several heads, weights that are shared by the elements.
    """
    config = _config(theirs)
    like = theirs.node_embedding.linear.weight
    ours = MACE(config).to(like)
    weights.copy(ours.embedding.weight, like * config.num_species**-0.5)
    for layer, block, product in zip(ours.layers, theirs.interactions, theirs.products, strict=True):
        assert isinstance(layer, Interaction)
        weights.copy_linear(layer.linear_up, block.linear_up)
        radial = [part.weight for part in block.conv_tp_weights]
        weights.copy_radial(layer.convolution, radial, block.conv_tp, scale=1 / config.avg_num_neighbors, flip=True)
        weights.copy_linear(layer.linear, block.linear)
        weights.copy_self_connection(layer.skip, block.skip_tp)
        _copy_contraction(layer.power, product.symmetric_contractions)
        weights.copy_linear(layer.product_linear, product.linear)
    for readout, other in zip(ours.readouts, theirs.readouts, strict=True):
        assert isinstance(readout, MLP)
        maps = [other.linear] if hasattr(other, "linear") else [other.linear_1, other.linear_2]
        weights.copy_mlp(readout, [m.weight for m in maps])
    last = getattr(theirs, "scale_shift", None)
    potential = Potential(
        ours,
        theirs.atomic_numbers.tolist(),
        reference_energies=theirs.atomic_energies_fn.atomic_energies.view(-1).tolist(),
        scale=1.0 if last is None else float(last.scale),
        shift=0.0 if last is None else float(last.shift),
    )
    weights.compare(potential, lambda *atoms: _energies(theirs, *atoms), "MACE")
    return potential.train(theirs.training)


def _config(theirs: Any) -> MACEConfig:
    if not all(hasattr(theirs, name) for name in ("interactions", "products", "readouts", "atomic_energies_fn")):
        raise EquikernError(f"from_mace reads a MACE or ScaleShiftMACE of mace-torch; got {type(theirs).__name__}.")
    block, radial = theirs.interactions[0], theirs.radial_embedding
    contractions = [product.symmetric_contractions.contractions for product in theirs.products]
    kinds = [type(each).__name__ for each in theirs.interactions]
    lacking = {
        f"interaction blocks {kinds}": not set(kinds) <= set(RESIDUAL) or not all(RESIDUAL[kind] for kind in kinds[1:]),
        "radial functions but Bessel's, with the cutoff": not hasattr(radial.bessel_fn, "bessel_weights")
        or isinstance(radial.bessel_fn.bessel_weights, nn.Parameter)
        or not getattr(radial, "apply_cutoff", True),
        "transformed distances": hasattr(radial, "distance_transform"),
        "features of other parities": any(
            ir.p != (-1) ** ir.l
            for irreps in (theirs.spherical_harmonics.irreps_out, theirs.products[0].linear.irreps_out)
            for _, ir in irreps
        ),
        "pair repulsion": hasattr(theirs, "pair_repulsion_fn"),
        "embeddings of further properties": hasattr(theirs, "joint_embedding"),
        "weights that elements share": getattr(theirs, "use_agnostic_product", False),
        "several heads": len(getattr(theirs, "heads", None) or [0]) > 1,
        "layers without a readout": len(theirs.readouts) != len(theirs.interactions),
    }
    for what, has in lacking.items():
        if has:
            raise weights.lacks("MACE", what)
    return MACEConfig(
        cutoff=float(theirs.r_max),
        num_species=len(theirs.atomic_numbers),
        layers=len(kinds),
        channels=theirs.node_embedding.linear.irreps_out.dim,
        lmax=block.edge_attrs_irreps.lmax,
        lmax_hidden=theirs.products[0].linear.irreps_out.lmax,
        correlation=tuple(int(each[0].correlation) for each in contractions),
        first_residual=RESIDUAL[kinds[0]],
        num_basis=radial.out_dim,
        cutoff_power=int(radial.cutoff_fn.p),
        radial=tuple(block.conv_tp_weights.hs[1:-1]),
        hidden=theirs.readouts[-1].linear_1.irreps_out.dim if len(kinds) > 1 else 1,
        avg_num_neighbors=float(block.avg_num_neighbors),
    )


def _copy_contraction(ours: SymmetricContraction, theirs: nn.Module) -> None:
    """The weights of MACE's symmetric contraction; its polynomials are combinations of ours."""
    swap = contraction_swap(theirs)
    if not isinstance(swap, ContractionSwap):
        raise EquikernError(f"a symmetric contraction of the model cannot be read: {swap}.")
    terms = swap.matrix @ torch.cat([w.detach().double().cpu() for w in swap._weights()], 1)  # (Z, terms, C)
    matrix = torch.tensor(basis(ours.program.text).matrix)  # (terms, polynomials)
    found = torch.linalg.lstsq(matrix, terms.transpose(0, 1).flatten(1)).solution
    weights.copy(ours.weight, found.unflatten(1, (terms.shape[0], -1)).transpose(0, 1))


def _energies(theirs: Any, species: Tensor, positions: Tensor, edges: Tensor) -> Tensor:
    """The package's atomic energies (N,)."""
    like = theirs.node_embedding.linear.weight
    data = {
        "positions": positions.to(like.dtype),
        "edge_index": edges,
        "node_attrs": torch.eye(len(theirs.atomic_numbers)).to(like)[species],
        "shifts": positions.new_zeros(edges.shape[1], 3).to(like.dtype),
        "unit_shifts": positions.new_zeros(edges.shape[1], 3).to(like.dtype),
        "cell": positions.new_zeros(3, 3).to(like.dtype),
        "batch": torch.zeros_like(species),
        "ptr": torch.tensor([0, len(species)], device=species.device),
    }
    return theirs(data, compute_force=False)["node_energy"]  # type: ignore[no-any-return]
