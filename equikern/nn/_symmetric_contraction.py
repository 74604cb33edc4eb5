"""`SymmetricContraction`: MACE's many-body product, channel by channel, with weights for each species."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from equikern.errors import ProgramError, ShapeError
from equikern.nn._species_linear import present_species
from equikern.ops.engine import matmul, wide
from equikern.ops.symmetric_contraction import symmetric_contraction
from equikern.program import Irreps
from equikern.program.symmetric import basis, symmetric


class SymmetricContraction(torch.nn.Module):
    """z_n = sum over polynomials p, of degree 1 ... correlation, of W[species_n, p, c] p(x[n, c]), channel by channel.

    The polynomials map the components of one channel of irreps_x to each irrep of irreps_out, equivariantly: the
    symmetric contraction of MACE (Batatia et al. 2022, arXiv:2206.07697, equations 8 to 11). Their symmetric
    coefficient tensors are orthonormal, so there are no more weights than functions.

    irreps_x, irreps_out: one multiplicity C throughout, l <= 3. correlation: 1 to 4, the highest degree.
    num_species: rows of `weight` (num_species, polynomials, C), which start as normal numbers over the count of
    polynomials of one degree and output.
    layout: `mul_ir` (e3nn's) or `ir_mul`, of x and z.

    Raises ProgramError for irreps, a correlation or a layout that cannot be.

    >>> layer = SymmetricContraction("8x0e+8x1o+8x2e", "8x0e+8x1o", correlation=3, num_species=4)
    >>> layer(torch.randn(5, 72), torch.tensor([0, 3, 3, 1, 0])).shape
    torch.Size([5, 32])
    """

    def __init__(
        self, irreps_x: Any, irreps_out: Any, *, correlation: int, num_species: int, layout: str = "mul_ir"
    ) -> None:
        super().__init__()
        if num_species < 1:
            raise ProgramError(f"a symmetric contraction has weights of one species at least; got {num_species!r}.")
        self.irreps_x, self.irreps_out = Irreps(irreps_x), Irreps(irreps_out)
        self.correlation, self.num_species = int(correlation), int(num_species)
        if layout not in ("mul_ir", "ir_mul"):
            raise ProgramError(f"unknown layout {layout!r}; use one of mul_ir, ir_mul.")
        self.program = symmetric(self.irreps_x, self.irreps_out, self.correlation, layout_x=layout, layout_z=layout)
        found = basis(self.program.text)
        dtype = torch.get_default_dtype()
        sizes = torch.tensor(found.sizes(), dtype=dtype)
        shape = self.num_species, found.matrix.shape[1], self.program.channels
        self.weight = torch.nn.Parameter(torch.randn(shape) / sizes[:, None])

    def forward(self, x: Tensor, species: Tensor) -> Tensor:
        """x (N, irreps_x.dim), species (N,) integers in 0 ... num_species - 1 -> (N, irreps_out.dim).

        Raises ShapeError for tensors that do not fit, BackendError for a species out of range.
        """
        if species.ndim != 1 or species.dtype not in (torch.int32, torch.int64):
            raise ShapeError(f"species are integers (N,); got {tuple(species.shape)} {species.dtype}.")
        present, places = present_species(species.long(), self.num_species)
        return symmetric_contraction(self.program, x, self.term_weights(present), places)

    def term_weights(self, present: Tensor) -> Tensor:
        """(S, terms, C): the weights of monomials that those of polynomials make, of the species present (S,)."""
        weight = wide(self.weight.index_select(0, present))
        return matmul(_matrix(self.program.text, weight.dtype, weight.device), weight)

    def extra_repr(self) -> str:
        return (
            f"{self.irreps_x} -> {self.irreps_out}, correlation {self.correlation}, {self.num_species} species, "
            f"{self.weight.shape[1]} polynomials"
        )


@lru_cache(maxsize=64)
def _matrix(text: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(terms, polynomials) of the basis; kept, so that no call copies from the host."""
    return torch.tensor(basis(text).matrix, dtype=dtype, device=device)
