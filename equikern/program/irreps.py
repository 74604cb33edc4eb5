"""Irreducible representations of O(3) and lists of them, numpy only.

An irrep is `(l, p)`: dimension 2l+1, parity p = +1 ("e", even) or -1 ("o", odd), written `1o`.
Irreps are an ordered list of `mul x ir`, written `32x0e+16x1o` (the convention of e3nn).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import count, pairwise
from typing import Any, ClassVar, NamedTuple, Self

from equikern.errors import ProgramError

_TERM = re.compile(r"(?:(\d+)\s*x\s*)?(\d+)\s*([eoy])")


class Irrep(tuple):
    """One irrep `(l, p)` of O(3): `Irrep(1, -1)`, `Irrep("1o")`.

    >>> Irrep("1o").dim, str(Irrep(2, 1))
    (3, '2e')
    """

    __slots__ = ()

    def __new__(cls, l: Any, p: int | None = None) -> Self:  # noqa: E741
        if p is None:
            if isinstance(l, cls):
                return l
            if isinstance(l, str):
                match = _TERM.fullmatch(l.strip())
                if match is None or match[1] is not None:
                    raise ProgramError(f"{l!r} is no irrep; write l and a parity e, o or y, like '1o'.")
                degree = int(match[2])
                return super().__new__(cls, (degree, _parity(match[3], degree)))
            try:
                l, p = l  # noqa: E741
            except (TypeError, ValueError):
                raise ProgramError(f"{l!r} is no irrep; give a string like '1o', or l and p.") from None
        if not isinstance(l, int) or l < 0 or p not in (-1, 1):
            raise ProgramError(f"an irrep has an integer l >= 0 and a parity of 1 or -1; got l={l!r}, p={p!r}.")
        return super().__new__(cls, (l, p))

    @property
    def l(self) -> int:  # noqa: E743
        """Degree."""
        return self[0]

    @property
    def p(self) -> int:
        """Parity, 1 or -1."""
        return self[1]

    @property
    def dim(self) -> int:
        """Number of components, 2l+1."""
        return 2 * self[0] + 1

    def is_scalar(self) -> bool:
        """True for 0e."""
        return self == (0, 1)

    def __str__(self) -> str:
        return f"{self[0]}{'e' if self[1] > 0 else 'o'}"

    __repr__ = __str__

    def __mul__(self, other: Any) -> Iterator[Self]:  # type: ignore[override]
        """The irreps in the product of two irreps, by ascending l."""
        other = type(self)(other)
        p = self.p * other.p
        return (type(self)(l, p) for l in range(abs(self.l - other.l), self.l + other.l + 1))  # noqa: E741

    def __rmul__(self, mul: int) -> Irreps:  # type: ignore[override]
        return Irreps([(mul, self)])

    def __add__(self, other: Any) -> Irreps:
        return Irreps(self) + Irreps(other)


class MulIr(NamedTuple):
    """`mul x ir`: one entry of an irreps list."""

    mul: int
    ir: Irrep

    @property
    def dim(self) -> int:
        """Number of columns, mul (2l+1)."""
        return self.mul * self.ir.dim

    def __repr__(self) -> str:
        return f"{self.mul}x{self.ir}"


def _is_irrep(value: Any) -> bool:
    # e3nn's own class is read too.
    return isinstance(value, Irrep) or (isinstance(value, tuple) and type(value).__name__ == "Irrep")


def _parity(letter: str, degree: int) -> int:
    return {"e": 1, "o": -1, "y": (-1) ** degree}[letter]


@lru_cache(maxsize=4096)
def _entries(text: str) -> tuple[MulIr, ...]:
    entries = []
    for term in text.split("+") if text.strip() else ():
        match = _TERM.fullmatch(term.strip())
        if match is None:
            raise ProgramError(f"cannot read {term.strip()!r} in irreps {text!r}; write like '32x0e+16x1o'.")
        degree = int(match[2])
        entries.append(MulIr(int(match[1] or 1), Irrep(degree, _parity(match[3], degree))))
    return tuple(entries)


class Irreps(tuple):
    """An ordered list of `mul x ir`.

    Reads strings, an irrep, lists of `(mul, ir)` (e3nn's own objects too: they are read as tuples).

    >>> Irreps("32x0e + 16x1o").dim
    80
    """

    __slots__ = ()

    # The class of the irreps it holds; a subclass has its own.
    _irrep: ClassVar[type[Irrep]] = Irrep

    def __new__(cls, irreps: Any = None) -> Self:
        if isinstance(irreps, cls):
            return irreps
        if irreps is None:
            return super().__new__(cls, ())
        if isinstance(irreps, str):
            entries = _entries(irreps)
            if cls._irrep is not Irrep:
                entries = tuple(MulIr(mul, cls._irrep(ir)) for mul, ir in entries)
            return super().__new__(cls, entries)
        if _is_irrep(irreps):
            return super().__new__(cls, (MulIr(1, cls._irrep(irreps)),))
        try:
            iterator = iter(irreps)
        except TypeError:
            raise ProgramError(
                f"{irreps!r} is no irreps; give a string like '32x0e+16x1o' or (mul, ir) pairs."
            ) from None
        return super().__new__(cls, tuple(cls._entry(entry) for entry in iterator))

    @classmethod
    def _entry(cls, entry: Any) -> MulIr:
        if _is_irrep(entry):
            return MulIr(1, cls._irrep(entry))
        if isinstance(entry, str):
            entries = cls(entry)
            if len(entries) != 1:
                raise ProgramError(f"{entry!r} stands for one entry of irreps; write one term, like '16x1o'.")
            return entries[0]  # type: ignore[no-any-return]
        try:
            mul, ir = entry
        except (TypeError, ValueError):
            raise ProgramError(f"{entry!r} is no entry of irreps; give (mul, ir) pairs.") from None
        if not isinstance(mul, int) or mul < 0:
            raise ProgramError(f"a multiplicity is an integer >= 0; got {mul!r}.")
        return MulIr(mul, cls._irrep(ir))

    @property
    def dim(self) -> int:
        """Number of columns."""
        return sum(entry.dim for entry in self)

    @property
    def num_irreps(self) -> int:
        """Sum of the multiplicities."""
        return sum(mul for mul, _ in self)

    @property
    def ls(self) -> list[int]:
        """The degree of each irrep, repeated by multiplicity."""
        return [ir.l for mul, ir in self for _ in range(mul)]

    @property
    def lmax(self) -> int:
        """The largest degree of an entry that is not empty."""
        if self.num_irreps == 0:
            raise ProgramError("empty irreps have no lmax.")
        return max(ir.l for mul, ir in self if mul > 0)

    def slices(self) -> list[slice]:
        """The columns of each entry."""
        ends = [0]
        for entry in self:
            ends.append(ends[-1] + entry.dim)
        return [slice(a, b) for a, b in pairwise(ends)]

    def count(self, ir: Any) -> int:
        """Multiplicity of an irrep, summed over entries."""
        ir = Irrep(ir)
        return sum(mul for mul, other in self if other == ir)

    def __contains__(self, ir: Any) -> bool:
        """Whether an entry, be it empty, has this irrep."""
        ir = Irrep(ir)
        return any(other == ir for _, other in self)

    def simplify(self) -> Self:
        """Merge equal neighbours and drop empty entries."""
        out: list[tuple[int, Irrep]] = []
        for mul, ir in self:
            if out and out[-1][1] == ir:
                out[-1] = (out[-1][0] + mul, ir)
            elif mul > 0:
                out.append((mul, ir))
        return type(self)(out)

    def remove_zero_multiplicities(self) -> Self:
        """Drop entries of multiplicity zero."""
        return type(self)([entry for entry in self if entry.mul > 0])

    def __add__(self, other: Any) -> Self:
        return type(self)(tuple(self) + tuple(Irreps(other)))

    def __mul__(self, n: Any) -> Self:
        return type(self)(tuple(self) * n)

    __rmul__ = __mul__

    def __getitem__(self, i: Any) -> Any:
        item = super().__getitem__(i)
        return type(self)(item) if isinstance(i, slice) else item

    def __str__(self) -> str:
        return "+".join(f"{mul}x{ir}" for mul, ir in self)

    __repr__ = __str__


class Sorted(NamedTuple):
    """Sorted irreps; `p[i]` is the new place of entry i, `inv` its inverse."""

    irreps: Irreps
    p: tuple[int, ...]
    inv: tuple[int, ...]


def sort_irreps(irreps: Irreps) -> Sorted:
    """Sort by degree, odd before even, as e3nn does: 0o 0e 1o 1e 2o 2e ...; stable."""
    inv = tuple(sorted(range(len(irreps)), key=lambda i: tuple(irreps[i].ir)))
    p = [0] * len(inv)
    for new, old in enumerate(inv):
        p[old] = new
    return Sorted(type(irreps)([irreps[i] for i in inv]), tuple(p), inv)


def iter_irreps(lmax: int | None = None) -> Iterator[Irrep]:
    """0e 0o 1o 1e 2e 2o ... up to lmax, without end if it is None."""
    for degree in count() if lmax is None else range(lmax + 1):
        yield Irrep(degree, (-1) ** degree)
        yield Irrep(degree, -((-1) ** degree))
