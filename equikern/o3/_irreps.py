"""`Irrep` and `Irreps`: those of `equikern.program` with what e3nn's have besides, matrices and random features."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from equikern.errors import ProgramError
from equikern.o3 import _rotation
from equikern.o3._wigner import wigner_D
from equikern.program import irreps as core
from equikern.program.irreps import MulIr, Sorted, iter_irreps, sort_irreps


def _split_inversion(R: Tensor) -> tuple[Tensor, Tensor]:
    """A proper rotation (..., 3, 3) and how often the inversion is applied (...), 0 or 1."""
    sign = torch.det(R).detach().sign()
    return sign[..., None, None] * R, (1 - sign) / 2


class _Rotated:
    """The matrices of a representation from any description of a rotation, by way of its angles."""

    __slots__ = ()

    def D_from_angles(self, alpha: Tensor, beta: Tensor, gamma: Tensor, k: Tensor | None = None) -> Tensor:
        """(..., dim, dim) of angles (...) and the parity k (...) of the inversion."""
        raise NotImplementedError

    def D_from_quaternion(self, q: Tensor, k: Tensor | None = None) -> Tensor:
        """(..., dim, dim) of unit quaternions (..., 4)."""
        return self.D_from_angles(*_rotation.quaternion_to_angles(q), k)

    def D_from_matrix(self, R: Tensor) -> Tensor:
        """(..., dim, dim) of orthogonal matrices (..., 3, 3), inversions included."""
        R, k = _split_inversion(R)
        return self.D_from_angles(*_rotation.matrix_to_angles(R), k)

    def D_from_axis_angle(self, axis: Tensor, angle: Tensor) -> Tensor:
        """(..., dim, dim) of axes (..., 3) and angles (...)."""
        return self.D_from_angles(*_rotation.axis_angle_to_angles(axis, angle))


class Irrep(_Rotated, core.Irrep):
    """One irrep `(l, p)` of O(3): `Irrep(1, -1)`, `Irrep("1o")`; p = (-1)^l is written y: `Irrep("1y")`.

    >>> Irrep("1o").dim, list(Irrep("1o") * Irrep("1o"))
    (3, [0e, 1e, 2e])
    """

    __slots__ = ()

    @classmethod
    def iterator(cls, lmax: int | None = None) -> Iterator[Irrep]:
        """0e 0o 1o 1e 2e 2o ... up to lmax, without end if it is None."""
        return (cls(ir) for ir in iter_irreps(lmax))

    def D_from_angles(self, alpha: Tensor, beta: Tensor, gamma: Tensor, k: Tensor | None = None) -> Tensor:
        """p^k D^l (..., dim, dim) of angles (...); k (...), integers, counts inversions."""
        if k is None:
            return wigner_D(self.l, alpha, beta, gamma)
        alpha, beta, gamma, k = torch.broadcast_tensors(alpha, beta, gamma, torch.as_tensor(k, device=alpha.device))
        sign = 1 - (1 - self.p) * (k % 2).to(alpha.dtype)
        return wigner_D(self.l, alpha, beta, gamma) * sign[..., None, None]

    def __rmul__(self, mul: int) -> Irreps:  # type: ignore[override]
        return Irreps([(mul, self)])

    def __add__(self, other: Any) -> Irreps:
        return Irreps(self) + Irreps(other)


class Irreps(_Rotated, core.Irreps):
    """An ordered list of `mul x ir`: `Irreps("32x0e+16x1o")`, `Irreps([(32, (0, 1)), (16, "1o")])`, e3nn's objects.

    >>> Irreps("16x0e + 4x1o")
    16x0e+4x1o
    """

    __slots__ = ()
    _irrep: ClassVar[type[core.Irrep]] = Irrep

    @staticmethod
    def spherical_harmonics(lmax: int, p: int = -1) -> Irreps:
        """0e + 1p + ... of the harmonics up to lmax of a vector with parity p.

        >>> Irreps.spherical_harmonics(2)
        1x0e+1x1o+1x2e
        """
        return Irreps([(1, (l, p**l)) for l in range(lmax + 1)])  # noqa: E741

    def randn(
        self,
        *size: int,
        normalization: str = "component",
        requires_grad: bool = False,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Random features of shape `size`, in which -1 stands for `dim`.

        "component": each number is standard normal; "norm": each irrep has norm 1. Raises ProgramError for another
        normalization, or a size without -1.

        >>> Irreps("5x0e + 10x1o").randn(5, -1, 2).shape
        torch.Size([5, 35, 2])
        """
        if size.count(-1) != 1:
            raise ProgramError(f"the size of random features holds one -1, which stands for their dim; got {size}.")
        axis = size.index(-1)
        left, right = size[:axis], size[axis + 1 :]
        if normalization == "component":
            x = torch.randn(*left, self.dim, *right, dtype=dtype, device=device)
        elif normalization == "norm":
            parts = [torch.randn(*left, mul, ir.dim, *right, dtype=dtype, device=device) for mul, ir in self]
            units = [part / part.norm(dim=axis + 1, keepdim=True) for part in parts]
            empty = torch.zeros(*left, 0, *right, dtype=dtype, device=device)
            x = torch.cat([empty, *(unit.flatten(axis, axis + 1) for unit in units)], dim=axis)
        else:
            raise ProgramError(f"normalization is 'component' or 'norm'; got {normalization!r}.")
        return x.requires_grad_(requires_grad)

    def index(self, ir: Any) -> int:  # type: ignore[override]
        """The place of the first entry of an irrep; raises ProgramError where there is none."""
        ir = Irrep(ir)
        for i, entry in enumerate(self):
            if entry.ir == ir:
                return i
        raise ProgramError(f"{ir} is not in {self}.")

    def sort(self) -> Sorted:
        """`(irreps, p, inv)`: entries by degree, odd before even; p[i] is the new place of entry i, inv its inverse.

        >>> Irreps("1e + 0e + 1e").sort().p
        (1, 0, 2)
        """
        return sort_irreps(self)

    def regroup(self) -> Irreps:
        """Sorted, and equal irreps merged."""
        return self.sort().irreps.simplify()  # type: ignore[return-value]

    def filter(self, keep: Any = None, *, drop: Any = None, lmax: int | None = None) -> Irreps:
        """The entries to keep, or those not to drop, or those up to a degree; at most one of the three is given.

        `keep` and `drop` are irreps, a list of them, or a function of an entry.

        >>> Irreps("1e + 2e + 0e").filter(drop="2e + 2x1e")
        1x0e
        """
        if sum(argument is not None for argument in (keep, drop, lmax)) > 1:
            raise ProgramError("filter takes one of keep, drop and lmax.")
        if keep is not None:
            kept = _chooser(keep)
            return Irreps([entry for entry in self if kept(entry)])
        if drop is not None:
            dropped = _chooser(drop)
            return Irreps([entry for entry in self if not dropped(entry)])
        return self if lmax is None else Irreps([entry for entry in self if entry.ir.l <= lmax])

    @property
    def slice_by_mul(self) -> _SliceByMul:
        """Slices that count irreps, not entries.

        >>> Irreps("2x0e + 3x1o").slice_by_mul[1:4]
        1x0e+2x1o
        """
        return _SliceByMul(self)

    def __mul__(self, n: Any) -> Self:
        if isinstance(n, tuple):
            raise ProgramError(f"irreps {self} times irreps {n}: use a TensorProduct; * repeats a list.")
        return super().__mul__(n)

    __rmul__ = __mul__

    def D_from_angles(self, alpha: Tensor, beta: Tensor, gamma: Tensor, k: Tensor | None = None) -> Tensor:
        """Block-diagonal (..., dim, dim) of angles (...); k (...), integers, counts inversions."""
        shape = torch.broadcast_shapes(alpha.shape, beta.shape, gamma.shape, () if k is None else k.shape)
        out = alpha.new_zeros(*shape, self.dim, self.dim)
        blocks = {ir: ir.D_from_angles(alpha, beta, gamma, k) for _, ir in self}
        for (mul, ir), columns in zip(self, self.slices(), strict=True):
            for start in range(columns.start, columns.start + mul * ir.dim, ir.dim):
                place = slice(start, start + ir.dim)
                out[..., place, place] = blocks[ir]
        return out


def _chooser(wanted: Any) -> Callable[[MulIr], bool]:
    if callable(wanted):
        return wanted  # type: ignore[no-any-return]
    if isinstance(wanted, MulIr):
        wanted = [wanted]
    irs = {ir for _, ir in Irreps(wanted)}
    return lambda entry: entry.ir in irs


class _SliceByMul:
    def __init__(self, irreps: Irreps) -> None:
        self.irreps = irreps

    def __getitem__(self, index: slice) -> Irreps:
        if not isinstance(index, slice) or index.step not in (None, 1):
            raise ProgramError(f"slice_by_mul takes a slice without a step, like [2:5]; got {index!r}.")
        start, stop, _ = index.indices(self.irreps.num_irreps)
        out: list[tuple[int, Any]] = []
        first = 0
        for mul, ir in self.irreps:
            taken = min(stop, first + mul) - max(start, first)
            if taken > 0 or (mul == 0 and start <= first <= stop):
                out.append((taken, ir))
            first += mul
        return Irreps(out)
