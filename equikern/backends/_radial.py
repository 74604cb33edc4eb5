"""What the backends share about radial embeddings: the specification's text."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

BASES, CUTOFFS = ("bessel", "gaussian"), ("polynomial", "cosine", "none")


class RadialSpec(NamedTuple):
    """n functions of a length times a cutoff: see `ops.radial_embedding`. `p`: of the polynomial cutoff."""

    basis: str
    n: int
    r_max: float
    factor: float
    cutoff: str
    p: int

    @property
    def text(self) -> str:
        """The specification as text, `radial bessel 8 5.0 1.0 polynomial 6`; `parse_radial` reads it back."""
        return f"radial {self.basis} {self.n} {self.r_max!r} {self.factor!r} {self.cutoff} {self.p}"


@lru_cache(maxsize=1024)
def parse_radial(text: str) -> RadialSpec:
    """Read a specification's text.

    >>> parse_radial("radial bessel 8 5.0 1.0 polynomial 6").n
    8
    """
    _, basis, n, r_max, factor, cutoff, p = text.split()
    return RadialSpec(basis, int(n), float(r_max), float(factor), cutoff, int(p))
