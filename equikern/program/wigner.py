"""3j symbols and Wigner D matrices in the real basis of e3nn (l=1 is x, y, z; the polar axis is y), numpy only.

Source: Racah's formula for the SU(2) coefficients, evaluated in integers; the change of basis of e3nn
(`o3/_wigner.py`), so that signs agree with e3nn 0.5 and later. e3nn 0.4 differs by a sign for the triples of
`FLIPPED_IN_E3NN_04`.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from math import factorial, sqrt

import numpy as np
from numpy.typing import NDArray

from equikern.errors import ProgramError

Array = NDArray[np.float64]

CONVENTIONS = ("e3nn-0.5", "e3nn-0.4")

# Sorted (l1, l2, l3) whose 3j symbol in e3nn 0.4 (a stored table, l <= 11) is minus the one in e3nn >= 0.5.
FLIPPED_IN_E3NN_04 = frozenset(
    [(1, n, n) for n in range(2, 12)]
    + [(3, n, n + 2) for n in range(4, 10)]
    + [(4, n, n + 1) for n in range(4, 11)]
    + [(5, n, n) for n in range(5, 12)]
    + [(5, 6, 10), (5, 7, 11), (6, 6, 9), (6, 7, 10), (6, 8, 11), (7, 7, 9), (7, 8, 10), (7, 9, 11)]
    + [(8, 8, 9), (8, 9, 10), (8, 10, 11), (9, 9, 9), (9, 10, 10), (9, 11, 11)]
)


def _su2(l1: int, m1: int, l2: int, m2: int, l3: int, m3: int) -> float:
    """<l1 m1 l2 m2 | l3 m3> by Racah's formula; exact up to the last square root."""
    if m1 + m2 != m3:
        return 0.0
    f = factorial
    square = Fraction(
        (2 * l3 + 1) * f(l3 + l1 - l2) * f(l3 - l1 + l2) * f(l1 + l2 - l3) * f(l3 + m3) * f(l3 - m3),
        f(l1 + l2 + l3 + 1) * f(l1 - m1) * f(l1 + m1) * f(l2 - m2) * f(l2 + m2),
    )
    total = Fraction(0)
    for v in range(max(-l1 + l2 + m3, -l1 + m1, 0), min(l2 + l3 + m1, l3 - l1 + l2, l3 + m3) + 1):
        sign = -1 if (v + l2 + m2) % 2 else 1
        total += sign * Fraction(
            f(l2 + l3 + m1 - v) * f(l1 - m1 + v), f(v) * f(l3 - l1 + l2 - v) * f(l3 + m3 - v) * f(v + l1 - l2 - m3)
        )
    return (-1.0 if total < 0 else 1.0) * sqrt(square * total * total)


@cache
def real_to_complex(l: int) -> NDArray[np.complex128]:  # noqa: E741
    """Change of basis from real to complex spherical harmonics, with e3nn's phase (-i)^l."""
    q = np.zeros((2 * l + 1, 2 * l + 1), dtype=np.complex128)
    q[l, l] = 1
    for m in range(1, l + 1):
        q[l - m, l + m], q[l - m, l - m] = sqrt(0.5), -1j * sqrt(0.5)
        q[l + m, l + m], q[l + m, l - m] = (-1) ** m * sqrt(0.5), 1j * (-1) ** m * sqrt(0.5)
    return (-1j) ** l * q


@cache
def wigner_3j(l1: int, l2: int, l3: int, convention: str = "e3nn-0.5") -> Array:
    """The real 3j symbol, shape (2 l1+1, 2 l2+1, 2 l3+1), of Frobenius norm 1; read-only.

    `convention` is one of `CONVENTIONS`: the signs of e3nn >= 0.5 or those of e3nn 0.4.

    >>> bool(np.allclose(wigner_3j(1, 1, 0)[:, :, 0], np.eye(3) / 3**0.5))
    True
    """
    if convention not in CONVENTIONS:
        raise ProgramError(f"unknown sign convention {convention!r}; use one of {', '.join(CONVENTIONS)}.")
    if min(l1, l2, l3) < 0 or not abs(l1 - l2) <= l3 <= l1 + l2:
        raise ProgramError(f"({l1}, {l2}, {l3}) breaks the triangle inequality |l1-l2| <= l3 <= l1+l2.")
    complex_basis = np.zeros((2 * l1 + 1, 2 * l2 + 1, 2 * l3 + 1), dtype=np.complex128)
    for m1 in range(-l1, l1 + 1):
        for m2 in range(max(-l2, -l3 - m1), min(l2, l3 - m1) + 1):
            complex_basis[l1 + m1, l2 + m2, l3 + m1 + m2] = _su2(l1, m1, l2, m2, l3, m1 + m2)
    q1, q2, q3 = real_to_complex(l1), real_to_complex(l2), real_to_complex(l3)
    real = np.einsum("ij,kl,nm,ikn->jlm", q1, q2, np.conj(q3), complex_basis, optimize=True).real
    real[np.abs(real) < 1e-14] = 0.0
    real /= np.linalg.norm(real)
    if convention == "e3nn-0.4" and tuple(sorted((l1, l2, l3))) in FLIPPED_IN_E3NN_04:
        real = -real
    real.setflags(write=False)
    return real


def wigner_d(l: int, rotation: Array) -> Array:  # noqa: E741
    """Wigner D matrix, shape (2l+1, 2l+1), of a proper rotation given as a 3x3 matrix; same basis as the 3j symbols.

    By the recursion D^l = (2l+1) C (R x D^(l-1)) C with C the 3j symbol (1, l-1, l).
    """
    rotation = np.asarray(rotation, dtype=np.float64)
    if rotation.shape != (3, 3) or not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-6):
        raise ProgramError("wigner_d needs an orthogonal 3x3 matrix.")
    if np.linalg.det(rotation) < 0:
        raise ProgramError("wigner_d needs a proper rotation; split off the inversion and use the parity for it.")
    d = np.ones((1, 1))
    for degree in range(1, l + 1):
        c = wigner_3j(1, degree - 1, degree)
        d = (2 * degree + 1) * np.einsum("aim,ab,ij,bjn->mn", c, rotation, d, c, optimize=True)
    return d
