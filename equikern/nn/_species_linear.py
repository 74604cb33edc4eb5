"""`SpeciesLinear`: a linear map between equal irreps with weights of its own for each species."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from equikern.errors import ProgramError, ShapeError
from equikern.ops import evaluate
from equikern.ops.engine import matmul
from equikern.ops.values import on_host
from equikern.program import Irreps, by_species, linear


def present_species(species: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The species that occur among `count`, and the place of each row's among them (N,); species (N,) int64.

    Weights by species are large, and most models know more species than a structure has. All of them are returned
    where values cannot be looked at, and where one is out of range: the op that reads them says so.
    """
    if on_host(species) and not torch.compiler.is_compiling() and _get_current_dispatch_mode() is None:
        present, places = species.unique(return_inverse=True)
        if len(present) and int(present[0]) >= 0 and int(present[-1]) < count:
            return present, places
    return torch.arange(count, device=species.device), species


class SpeciesLinear(torch.nn.Module):
    """z_n = W[species_n] x_n between equal irreps: the self-connection of NequIP and MACE.

    It is e3nn's `FullyConnectedTensorProduct` of x and scalars a(species), (num_species, num_attributes): weight
    (num_attributes, n) are the maps, and those of a species their sum weighted by its attributes. Without attributes
    these are one-hot, and `num_attributes` is the number of species. A map is path after path, each (mul_in, mul_out).

    Raises ProgramError for sizes that cannot be.

    >>> layer = SpeciesLinear("4x0e+4x1o", "8x0e+2x1o", num_attributes=3)
    >>> layer(torch.randn(5, 16), torch.tensor([0, 2, 2, 1, 0])).shape
    torch.Size([5, 14])
    """

    def __init__(self, irreps_in: Any, irreps_out: Any, num_attributes: int) -> None:
        super().__init__()
        if num_attributes < 1:
            raise ProgramError(f"a map by species has weights of one species at least; got {num_attributes!r}.")
        self.irreps_in, self.irreps_out = x, z = Irreps(irreps_in), Irreps(irreps_out)
        paths = []
        for o, (_, ir) in enumerate(z):
            into = [i for i, (_, other) in enumerate(x) if other == ir]
            fan_in = sum(x[i].mul for i in into) * num_attributes
            paths += [(i, o, (fan_in or 1) ** -0.5) for i in into]
        self.program = by_species(linear(x, z, sorted(paths)))
        self.weight = torch.nn.Parameter(torch.randn(num_attributes, self.program.dims[1]))

    def forward(self, x: Tensor, species: Tensor, attributes: Tensor | None = None) -> Tensor:
        """x (N, irreps_in.dim), species (N,) integers, attributes (num_species, num_attributes) -> (N, irreps_out.dim).

        Raises ShapeError for tensors that do not fit, and for a species out of range.
        """
        species = species.long()
        if attributes is None:
            return evaluate(self.program, (x, self.weight), [species])
        if attributes.ndim != 2 or attributes.shape[1] != len(self.weight):
            raise ShapeError(
                f"attributes have shape {tuple(attributes.shape)}; the map reads (num_species, {len(self.weight)})."
            )
        present, places = present_species(species, len(attributes))
        weight = matmul(attributes.index_select(0, present), self.weight)
        return evaluate(self.program, (x, weight), [places])

    def extra_repr(self) -> str:
        return f"{self.irreps_in} -> {self.irreps_out}, {len(self.weight)} attributes, {self.weight.shape[1]} weights"
