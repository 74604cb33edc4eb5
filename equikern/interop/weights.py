"""What the loaders of whole models share: weights of e3nn's modules to ours, and the comparison of the results.

Our layers have e3nn's normalisations; what may differ is the order of paths and the sign of a 3j symbol, and both go
into the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from equikern.errors import EquikernError
from equikern.interop import e3nn
from equikern.models import Potential
from equikern.nn import MLP, RadialConvolution, SpeciesLinear
from equikern.o3 import Linear
from equikern.program import CONVOLUTION, Program, Rows
from equikern.program.wigner import wigner_3j

# Of energies, over the largest. In float32 models some parts of the libraries are float64.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


def lacks(model: str, what: str) -> EquikernError:
    """The error for a part of a library's model that ours has not."""
    return EquikernError(f"models.{model} has no {what}; equikern.accelerate runs the library's model as it is.")


def compare(potential: Potential, energies: Callable[[Tensor, Tensor, Tensor], Tensor], model: str) -> None:
    """Raise EquikernError unless a potential has the library's energies of six atoms.

    energies: species (N,), positions (N, 3) float64 and edge_index (2, E) to the library's atomic energies (N,).
    """
    like = next(potential.model.parameters())
    generator = torch.Generator().manual_seed(0)
    species = torch.arange(6) % len(potential.elements)
    positions = torch.rand(6, 3, generator=generator, dtype=torch.float64) * potential.cutoff
    edges = (torch.cdist(positions, positions) < potential.cutoff).fill_diagonal_(False).nonzero().T.contiguous()
    vec = positions[edges[0]] - positions[edges[1]]
    species, positions, edges = (t.to(like.device) for t in (species, positions, edges))
    with torch.no_grad():
        network = potential.scale * potential.model(species, vec.to(like), edges).double().cpu()
    reference = torch.tensor(potential.reference_energies, dtype=torch.float64)[species.cpu()]
    expected = energies(species, positions, edges).detach().double().cpu()
    allowed = TOLERANCE[like.dtype] * network.abs().max() + 16 * torch.finfo(like.dtype).eps * expected.abs().max()
    if not (network + potential.shift + reference - expected).abs().max() <= allowed:
        raise EquikernError(
            f"models.{model} with these weights gives six atoms other energies, so it lacks a part of this model; "
            "equikern.accelerate runs the library's model as it is."
        )


def copy(ours: nn.Parameter | Tensor, theirs: Tensor) -> None:
    """Give a parameter the values of one with as many elements."""
    if ours.numel() != theirs.numel():
        raise EquikernError(f"weights of shape {tuple(theirs.shape)} do not fit {tuple(ours.shape)}.")
    with torch.no_grad():
        ours.copy_(theirs.detach().reshape(ours.shape))


def copy_linear(ours: Linear, theirs: Any) -> None:
    """The weights of e3nn's `Linear` between the same irreps."""
    for own, other in ((ours.irreps_in, theirs.irreps_in), (ours.irreps_out, theirs.irreps_out)):
        if own.simplify() != type(own)([(mul, (ir.l, ir.p)) for mul, ir in other]).simplify():
            raise EquikernError(f"a linear map of the model is from or to {other}; here it would be {own}.")
    copy(ours.weight, theirs.weight)


def copy_mlp(ours: MLP, weights: Iterable[Tensor]) -> None:
    """The weights of a network, each (fan in, fan out)."""
    for a, b in zip(ours.weights, weights, strict=True):
        copy(a, b)


def copy_radial(
    ours: RadialConvolution, weights: Iterable[Tensor], product: Any, *, scale: float = 1.0, flip: bool = False
) -> None:
    """The weights of a network whose results are those of an e3nn tensor product, to that of a convolution.

    scale: of their sum over neighbours. flip: their harmonics are those of the opposite vector.
    """
    *hidden, last = weights
    columns, factors = _paths(ours.program, _program(product, CONVOLUTION), flip)
    copy_mlp(ours.radial.network, [*hidden, last[:, columns] * (scale * factors).to(last)])  # type: ignore[arg-type]


def copy_self_connection(ours: SpeciesLinear, theirs: Any) -> None:
    """The weights of e3nn's `FullyConnectedTensorProduct` of features and attributes."""
    program = _program(theirs, None)
    places = {(path.in1, path.out): n for n, path in enumerate(program.paths)}
    found = []
    for path in ours.program.paths:
        n = places[path.in1, path.out]
        other = program.paths[n]
        degree = ours.irreps_out[path.out].ir.l
        factor = other.scale * float(wigner_3j(degree, 0, degree)[0, 0, 0]) / path.scale
        u, v, w = program.multiplicities(other)
        matrices = theirs.weight[program.weight_slices[n]].view(u, v, w)
        found.append(matrices.transpose(0, 1).flatten(1) * factor)
    copy(ours.weight, torch.cat(found, 1))


def _paths(ours: Program, theirs: Program, flip: bool) -> tuple[Tensor, Tensor]:
    """For each weight of ours, the column of theirs and the factor."""

    def keys(program: Program) -> list[tuple[Any, ...]]:
        irreps = [operand.irreps for operand in program.operands]
        return [(irreps[0][p.in1], irreps[1][p.in2], irreps[3][p.out]) for p in program.paths]  # type: ignore[index]

    places = {key: n for n, key in enumerate(keys(theirs))}
    if sorted(places) != sorted(keys(ours)):
        raise EquikernError(f"its paths are not those of the model:\n  {theirs}\n  {ours}")
    columns, factors = [], []
    for key, path, own in zip(keys(ours), ours.paths, ours.weight_slices, strict=True):
        n = places[key]
        columns += list(range(*theirs.weight_slices[n].indices(theirs.dims[2])))
        sign = (-1) ** key[1].ir.l if flip else 1
        factors += [sign * theirs.paths[n].scale / path.scale] * (own.stop - own.start)
    return torch.tensor(columns), torch.tensor(factors, dtype=torch.float64)


def _program(product: Any, rows: Rows | None) -> Program:
    program = e3nn.product_program(product, rows)
    if isinstance(program, str):
        raise EquikernError(f"a tensor product of the model cannot be read: {program}.")
    return program
