"""Equivariant homogeneous polynomials of a direct sum of irreps, in the monomials of its components; numpy only.

They are built degree by degree: each polynomial of degree n that transforms as an irrep is a sum of products of one of
degree n-1 with a component, coupled by 3j symbols. A Gram-Schmidt in a fixed order keeps what is new, so that the basis
does not depend on a linear algebra library.
"""

from __future__ import annotations

from functools import cache
from itertools import combinations_with_replacement
from math import factorial, sqrt

import numpy as np
from numpy.typing import NDArray

from equikern.program.wigner import wigner_3j

Array = NDArray[np.float64]
Monomial = tuple[int, ...]
Label = tuple[int, int]  # degree l and parity of an irrep

# The least norm of what is new in a candidate. Before its coefficients are made symmetric its norm is 1.
NEW = 1e-4


@cache
def monomials(size: int, degree: int) -> tuple[Monomial, ...]:
    """The monomials of a degree in `size` variables, each the sorted tuple of its variables.

    >>> monomials(2, 2)
    ((0, 0), (0, 1), (1, 1))
    """
    return tuple(combinations_with_replacement(range(size), degree))


@cache
def symmetric_basis(irreps: tuple[Label, ...], degree: int, out: Label) -> Array:
    """Coefficients (polynomials, 2l+1, monomials) of an orthonormal basis of those that transform as `out`; read-only.

    irreps are (l, parity) of the segments of the variables. Orthonormal are the symmetric coefficient tensors, in each
    component.
    """
    size = sum(2 * l + 1 for l, _ in irreps)  # noqa: E741
    norm = 1 / np.array([_arrangements(m) for m in monomials(size, degree)], dtype=np.float64)
    accepted: list[Array] = []
    for candidate in _candidates(irreps, degree, out):
        rest = candidate
        for _ in range(2):  # twice: as exact as the candidates
            for other in accepted:
                rest = rest - (other[0] * norm * rest[0]).sum() * other
        length = sqrt((rest[0] ** 2 * norm).sum())
        if length > NEW:
            accepted.append(rest / length)
    found = np.array(accepted) if accepted else np.zeros((0, 2 * out[0] + 1, len(norm)))
    found[np.abs(found) < 1e-12] = 0.0
    found.setflags(write=False)
    return found


def support(polynomials: Array) -> NDArray[np.bool_]:
    """(2l+1, monomials): which monomials occur in some polynomial."""
    return (np.abs(polynomials) > 1e-9).any(0)  # type: ignore[return-value]


def _candidates(irreps: tuple[Label, ...], degree: int, out: Label) -> list[Array]:
    starts = np.cumsum([0, *(2 * l + 1 for l, _ in irreps)])  # noqa: E741
    size = int(starts[-1])
    if degree == 1:
        found = []
        for start, label in zip(starts, irreps, strict=False):
            if label == out:
                found.append(np.eye(2 * out[0] + 1, size, int(start)))
        return found
    times = _times(size, degree - 1)
    count = len(monomials(size, degree))
    found = []
    for start, (l, parity) in zip(starts, irreps, strict=False):  # noqa: E741
        for l_left in range(abs(l - out[0]), l + out[0] + 1):
            symbol = sqrt(2 * out[0] + 1) * wigner_3j(l_left, l, out[0])
            for left in symmetric_basis(irreps, degree - 1, (l_left, parity * out[1])):
                # (component of out, variable of the segment, monomial)
                coupled = np.einsum("abk,am->kbm", symbol, left)
                made = np.zeros((2 * out[0] + 1, count))
                for b in range(2 * l + 1):
                    made[:, times[:, start + b]] += coupled[:, b]  # times is injective in the monomial
                found.append(made)
    return found


@cache
def _times(size: int, degree: int) -> NDArray[np.int64]:
    """(monomials, variables): the monomial that is the product of a monomial of a degree and a variable."""
    index = {m: n for n, m in enumerate(monomials(size, degree + 1))}
    return np.array([[index[tuple(sorted((*m, i)))] for i in range(size)] for m in monomials(size, degree)])


def _arrangements(monomial: Monomial) -> int:
    """In how many orders its variables can be written."""
    count = factorial(len(monomial))
    for variable in set(monomial):
        count //= factorial(monomial.count(variable))
    return count
