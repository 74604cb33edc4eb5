"""`SphericalHarmonics` and `spherical_harmonics` with e3nn's arguments, checks and values, over `equikern.ops`."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import Any

import torch
from torch import Tensor

from equikern.backends._harmonics import LMAX, NORMALIZATIONS
from equikern.errors import ProgramError
from equikern.o3._irreps import Irrep, Irreps
from equikern.ops import harmonics


def _is_irreps(value: Any) -> bool:
    # e3nn's own objects are read too, by their class's name.
    return isinstance(value, (str, Irreps, Irrep)) or type(value).__name__ in ("Irreps", "Irrep")


def _input_irreps(irreps_in: Any, irreps_out: Irreps | None) -> Irreps:
    if irreps_in is None:
        odd_even = irreps_out is not None and any(ir.l % 2 == 1 and ir.p == 1 for _, ir in irreps_out)
        irreps_in = "1e" if odd_even else "1o"
    irreps_in = Irreps(irreps_in)
    if irreps_in not in (Irreps("1o"), Irreps("1e")):
        raise ProgramError(f"irreps_in of spherical harmonics is a vector, 1o, or a pseudovector, 1e; got {irreps_in}.")
    return irreps_in


def _degrees(irreps_out: Irreps, parity: int) -> list[int]:
    for _, ir in irreps_out:
        if ir.p != parity**ir.l:
            raise ProgramError(
                f"irreps_out {irreps_out} asks for {ir}; of a vector with parity {parity} the harmonics of degree "
                f"{ir.l} have parity {parity**ir.l}: write {Irrep(ir.l, parity**ir.l)}, or give irreps_in."
            )
    return irreps_out.ls


class SphericalHarmonics(torch.nn.Module):
    """Spherical harmonics (..., dim) of vectors (..., 3); arguments and values of e3nn's module of this name.

    `irreps_out` is a degree, a list of degrees, a string or irreps, whose parities must follow from `irreps_in` (1o,
    or 1e; found from `irreps_out` if not given). Degrees go up to 12. Unlike e3nn, with `normalize` a zero vector has
    zero derivatives. Raises ProgramError for irreps, degrees or a normalization that cannot be, and, when called,
    ShapeError for an input without 3 columns.

    >>> SphericalHarmonics("1x0e + 1x1o", normalize=True, normalization="norm")(torch.tensor([0.0, 2.0, 0.0]))
    tensor([1., 0., 1., 0.])
    """

    def __init__(
        self,
        irreps_out: int | Sequence[int] | str | Irreps,
        normalize: bool,
        normalization: str = "integral",
        irreps_in: Any = None,
    ) -> None:
        super().__init__()
        if normalization not in NORMALIZATIONS:
            raise ProgramError(f"unknown normalization {normalization!r}; use one of {', '.join(NORMALIZATIONS)}.")
        asked = Irreps(irreps_out) if _is_irreps(irreps_out) else None
        self.irreps_in = _input_irreps(irreps_in, asked)
        parity = self.irreps_in[0].ir.p
        if asked is not None:
            ls = _degrees(asked, parity)
        else:
            ls = [irreps_out] if isinstance(irreps_out, int) else [index(degree) for degree in irreps_out]  # type: ignore[union-attr,arg-type]
        if not ls or not 0 <= min(ls) <= max(ls) <= LMAX:
            raise ProgramError(f"spherical harmonics have degrees 0 <= l <= {LMAX}, at least one; got {ls}.")
        self.irreps_out = Irreps([(1, (degree, parity**degree)) for degree in ls]).simplify()
        self.normalize = normalize
        self.normalization = normalization
        self._ls_list = ls
        self._lmax = max(ls)

    def forward(self, x: Tensor) -> Tensor:
        """Y(x), shape (..., dim of irreps_out)."""
        return harmonics.spherical_harmonics(self._ls_list, x, self.normalize, self.normalization)

    def extra_repr(self) -> str:
        """What `print` shows between the brackets."""
        return f"{self.irreps_in} -> {self.irreps_out}, normalize={self.normalize}, {self.normalization!r}"


def spherical_harmonics(
    l: int | Sequence[int] | str | Irreps,  # noqa: E741
    x: Tensor,
    normalize: bool,
    normalization: str = "integral",
) -> Tensor:
    """Spherical harmonics (..., dim) of vectors x (..., 3); see `SphericalHarmonics`.

    >>> spherical_harmonics(0, torch.zeros(2, 3), False, normalization="component")
    tensor([[1.],
            [1.]])
    """
    return SphericalHarmonics(l, normalize, normalization)(x)
