"""What the backends share about spherical harmonics: the specification's text and the table of derivatives.

Solid harmonics Y_l of degree l satisfy dY_l/dv_a = A^l_a Y_(l-1) with A^l proportional to the 3j symbol (1, l-1, l),
because a derivative is the only equivariant map that lowers the degree by one; Euler's relation for homogeneous
polynomials gives them back, l Y_l = sum_a v_a A^l_a Y_(l-1). The factor follows from Y_l(polar axis) = sqrt(2l+1) e_0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from math import factorial, pi, prod, sqrt

import numpy as np
from numpy.typing import NDArray

from equikern.errors import ProgramError
from equikern.program.wigner import wigner_3j

Array = NDArray[np.float64]

LMAX = 12
NORMALIZATIONS = ("integral", "component", "norm")


@dataclass(frozen=True)
class HarmonicsSpec:
    """Which harmonics: degrees in column order, the output's normalization, whether the input is normalized."""

    degrees: tuple[int, ...]
    normalization: str
    normalize: bool

    def __post_init__(self) -> None:
        if self.normalization not in NORMALIZATIONS:
            raise ProgramError(f"unknown normalization {self.normalization!r}; use one of {', '.join(NORMALIZATIONS)}.")
        if not self.degrees:
            raise ProgramError("spherical harmonics of no degree; give at least one l.")
        if any(not isinstance(degree, int) or not 0 <= degree <= LMAX for degree in self.degrees):
            raise ProgramError(f"spherical harmonics have integer degrees 0 <= l <= {LMAX}; got {list(self.degrees)}.")

    @cached_property
    def text(self) -> str:
        """The specification as text, `sh 0,1,2 component normalize`; `parse_spec` reads it back."""
        degrees = ",".join(map(str, self.degrees))
        return f"sh {degrees} {self.normalization} {'normalize' if self.normalize else 'raw'}"

    @cached_property
    def dim(self) -> int:
        """Number of columns."""
        return sum(2 * degree + 1 for degree in self.degrees)

    @property
    def lmax(self) -> int:
        """The largest degree."""
        return max(self.degrees)


@lru_cache(maxsize=1024)
def parse_spec(text: str) -> HarmonicsSpec:
    """Read a specification's text.

    >>> parse_spec("sh 0,1 norm raw").dim
    4
    """
    words = text.split()
    if len(words) != 4 or words[0] != "sh" or words[3] not in ("normalize", "raw"):
        raise ProgramError(f"cannot read the harmonics {text!r}; write like 'sh 0,1,2 component normalize'.")
    try:
        degrees = tuple(int(word) for word in words[1].split(","))
    except ValueError:
        raise ProgramError(f"cannot read the degrees {words[1]!r} in {text!r}; write like '0,1,2'.") from None
    return HarmonicsSpec(degrees, words[2], words[3] == "normalize")


def scale(degree: int, normalization: str) -> float:
    """Factor from `component` (|Y_l|^2 = 2l+1 on the sphere) to a normalization."""
    return {"component": 1.0, "integral": 1 / sqrt(4 * pi), "norm": 1 / sqrt(2 * degree + 1)}[normalization]


@cache
def derivative(degree: int, normalization: str) -> Array:
    """A^l, shape (3, 2l+1, 2l-1), l >= 1: dY_l/dv_a = A^l[a] Y_(l-1), both normalized alike; read-only."""
    symbol = wigner_3j(1, degree - 1, degree)
    factor = degree * sqrt((2 * degree + 1) / (2 * degree - 1)) / symbol[1, degree - 1, degree]
    factor *= scale(degree, normalization) / scale(degree - 1, normalization)
    table = factor * symbol.transpose(0, 2, 1)
    table.setflags(write=False)
    return table


def pair_factors(spec: HarmonicsSpec) -> list[tuple[float, float, float, float]]:
    """Constants (next, last, polar, ring) of the pairs (l, m), 0 <= m <= l <= lmax, in that order.

    `csrc/cpu/harmonics.hpp` says what they do: they are the factors of the derivatives of Legendre's polynomials, times
    the ratio of the norms of the harmonics.
    """

    def norm(l: int, m: int) -> float:  # noqa: E741
        return scale(l, spec.normalization) * sqrt((2 if m else 1) * (2 * l + 1) * factorial(l - m) / factorial(l + m))

    pairs = []
    for l in range(spec.lmax + 1):  # noqa: E741
        for m in range(l):
            polar = (l + m) * norm(l, m) / norm(l - 1, m)
            ring = norm(l, m) / norm(l - 1, m + 1) if m < l - 1 else 0.0
            pairs.append((polar / (l - m), ring / (l - m), polar, ring))
        pairs.append((norm(l, l) * prod(range(2 * l - 1, 1, -2)), 0.0, 0.0, 0.0))
    return pairs


def columns(spec: HarmonicsSpec) -> list[int]:
    """The component l^2 + l + m in each column."""
    return [degree**2 + n for degree in spec.degrees for n in range(2 * degree + 1)]
