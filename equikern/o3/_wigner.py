"""Coupling coefficients, Wigner D and generators as torch tensors, in e3nn's real basis and with its signs (0.5+)."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from equikern.errors import ProgramError
from equikern.program import wigner_3j as exact_3j
from equikern.program import wigner_d
from equikern.program.wigner import real_to_complex

_COMPLEX = {torch.float32: torch.complex64, torch.float64: torch.complex128}


def wigner_3j(
    l1: int, l2: int, l3: int, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> Tensor:
    """The real 3j symbol, shape (2 l1+1, 2 l2+1, 2 l3+1), of Frobenius norm 1; a new tensor on every call.

    Raises ProgramError where |l1-l2| <= l3 <= l1+l2 does not hold.

    >>> wigner_3j(1, 1, 0).squeeze().diagonal()
    tensor([0.5774, 0.5774, 0.5774])
    """
    return torch.tensor(exact_3j(l1, l2, l3), dtype=dtype or torch.get_default_dtype(), device=device)


def wigner_D(l: int, alpha: Tensor, beta: Tensor, gamma: Tensor) -> Tensor:  # noqa: E741
    """D^l of the rotation R_y(alpha) R_x(beta) R_y(gamma): angles (...), broadcast, to (..., 2l+1, 2l+1).

    A rotation about y is a rotation by m angle in each pair of components (-m, m); the one about x is the same between
    two constant matrices that take x to y and back.
    """
    alpha, beta, gamma = torch.broadcast_tensors(alpha, beta, gamma)
    turn = torch.tensor(_y_to_x(_degree(l)), dtype=alpha.dtype, device=alpha.device)
    return _about_y(l, alpha) @ turn @ _about_y(l, beta) @ turn.T @ _about_y(l, gamma)


def _degree(l: int) -> int:  # noqa: E741
    if not isinstance(l, int) or l < 0:
        raise ProgramError(f"a degree is an integer l >= 0; got {l!r}.")
    return l


@cache
def _y_to_x(l: int) -> NDArray[np.float64]:  # noqa: E741
    return wigner_d(l, np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))


def _about_y(l: int, angle: Tensor) -> Tensor:  # noqa: E741
    """D^l of a rotation about y, (..., 2l+1, 2l+1): cos on the diagonal, sin(m angle) on the other one."""
    m = torch.arange(l, -l - 1, -1, dtype=angle.dtype, device=angle.device)
    diagonal = torch.diag_embed(torch.cos(angle[..., None] * m))
    return diagonal + torch.diag_embed(torch.sin(angle[..., None] * m)).flip(-1)


def change_basis_real_to_complex(
    l: int,  # noqa: E741
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """The unitary (2l+1, 2l+1) from real to complex harmonics with e3nn's phase (-i)^l.

    `dtype` is the real dtype, float32 or float64; the result has the complex one. Raises ProgramError for others.
    """
    real = dtype or torch.get_default_dtype()
    if real not in _COMPLEX:
        raise ProgramError(f"the change of basis exists for float32 and float64; got {real}.")
    return torch.tensor(real_to_complex(_degree(l)), dtype=_COMPLEX[real], device=device)


def _su2(j: int) -> NDArray[np.complex128]:
    m = np.arange(-_degree(j), j)
    step = np.sqrt(j * (j + 1.0) - m * (m + 1))
    up, down = np.diag(-step, -1), np.diag(step, 1)
    return np.stack([(up + down) / 2, np.diag(1j * np.arange(-j, j + 1)), (up - down) / 2j])


def su2_generators(j: int) -> Tensor:
    """The three anti-Hermitian generators (3, 2j+1, 2j+1) of SU(2) in the complex basis, in the default precision."""
    return torch.tensor(_su2(j), dtype=_COMPLEX.get(torch.get_default_dtype(), torch.complex64))


def so3_generators(l: int) -> Tensor:  # noqa: E741
    """The generators (3, 2l+1, 2l+1) of rotations about x, y and z in the real basis: D = exp(angle X)."""
    q = real_to_complex(_degree(l))
    return torch.tensor((np.conj(q.T) @ _su2(l) @ q).real, dtype=torch.get_default_dtype())
