"""Products in every connection mode on any device: x and y coupled edge by edge, then weighed, as matrix products.

Of a path, y makes the matrices T_ik = sum over j of C_ijk y_j, these and x the coupled channels A_k = sum over i of
x_i T_ik: for each pair (u, v) of channels, or for equal channels; the weights take A to z. Gradients go the same way
back, and share T and A.
"""

from __future__ import annotations

from functools import cache, lru_cache
from math import sqrt
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from equikern.backends import by_edge
from equikern.program import SHARED, Irreps, Operand, Path, Program, parse, wigner_3j
from equikern.program.program import W, X, Y, Z, mode_shapes

LIMIT = 1 << 28  # bytes of a path's coupled channels at once


class _Part(NamedTuple):
    """Columns of an operand, their shape, and a letter for each axis (u v w of channels, i j k of components)."""

    columns: slice
    shape: tuple[int, ...]
    letters: str

    def of(self, rows: Tensor) -> Tensor:
        """(E, *shape), a view."""
        return rows[:, self.columns].unflatten(1, self.shape)


class _Path(NamedTuple):
    """A path as parts of x y w z; the letters and the sizes of its coupled channels; its pairs u < v are picked."""

    number: int
    x: _Part
    y: _Part
    w: _Part
    z: _Part
    coupled: str
    sizes: tuple[int, ...]
    pairs: bool
    weighted: bool


# letters of the channels of y, of what is coupled, of w and z; p counts the pairs u < v
_LETTERS = {
    "uvw": ("v", "uv", "uvw", "w"),
    "uvu": ("v", "uv", "uv", "u"),
    "uvv": ("v", "uv", "uv", "v"),
    "uuw": ("u", "u", "uw", "w"),
    "uuu": ("u", "u", "u", "u"),
    "uvuv": ("v", "uv", "uv", "uv"),
    "uvu<v": ("v", "uv", "p", "p"),
    "u<vw": ("v", "uv", "pw", "w"),
}


@cache
def _paths(text: str) -> list[_Path]:
    program = parse(text)
    x, y, z = (program.operands[slot].irreps for slot in (X, Y, Z))

    def part(irreps: Irreps, n: int, letters: str, sizes: tuple[int, ...], component: str) -> _Part:
        dim, columns = irreps[n].ir.dim, irreps.slices()[n]
        if program.layout == "mul_ir":
            return _Part(columns, (*sizes, dim), letters + component)
        return _Part(columns, (dim, *sizes), component + letters)

    found = []
    for n, (path, columns) in enumerate(zip(program.paths, program.weight_slices, strict=True)):
        muls = program.multiplicities(path)
        shape = mode_shapes(path.mode, *muls)[0]
        if 0 in muls or 0 in shape:
            continue
        of_y, coupled, of_w, of_z = _LETTERS[path.mode]
        size = dict(zip("uvw", muls, strict=True))
        if not path.weighted:  # a weight of 1 for each coupled channel
            of_w = of_w if of_w == "p" else coupled
            of_z = "" if path.mode == "uuw" else of_z
        w = _Part(columns, shape if path.weighted or of_w == "p" else tuple(size[c] for c in coupled), of_w)
        sizes_z = muls[:2] if of_z == "uv" else (muls[2],) if of_z else ()
        found.append(
            _Path(
                n,
                part(x, path.in1, "u", muls[:1], "i"),  # type: ignore[arg-type]
                part(y, path.in2, of_y, muls[1:2], "j"),  # type: ignore[arg-type]
                w,
                part(z, path.out, of_z, sizes_z, "k"),  # type: ignore[arg-type]
                coupled,
                tuple(size[c] for c in coupled),
                "p" in w.letters,
                path.weighted,
            )
        )
    return found


@lru_cache(maxsize=4096)
def _symbol(text: str, n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(i, j, k): scale times the 3j symbol of a path; kept for each device, so that no call copies from the host."""
    program = parse(text)
    path = program.paths[n]
    irreps = [program.operands[slot].irreps for slot in (X, Y, Z)]
    ls = [i[m].ir.l for i, m in zip(irreps, (path.in1, path.in2, path.out), strict=True)]  # type: ignore[index]
    return torch.tensor(path.scale * wigner_3j(*ls), dtype=dtype, device=device)


@lru_cache(maxsize=256)
def _pairs(m: int, device: torch.device) -> Tensor:
    """Of the pairs (u, v) of m channels, counted row by row, those with u < v."""
    first, second = np.triu_indices(m, 1)
    return torch.tensor(first * m + second, device=device)


def sweep(
    base: Program, operands: list[Tensor], index: list[Tensor], open: dict[int, int], *, fixed: bool = True
) -> list[Tensor]:
    """dF/da for each open slot; `operands` are x y w g, or x w g; not `fixed`: unweighted paths drop out."""
    if base.family == "linear":
        return _linear(base, operands, index, open)
    given = [a if a.ndim == 2 else None for a in operands]
    like = next(a for a in given if a is not None)
    where = by_edge.places(base, index, like)
    edges = by_edge.edges(base, given, where, open)
    by_edge.check(base, given, edges, like)
    reads = {X: (Y, W, Z), Y: (X, W, Z), W: (X, Y, Z), Z: (X, Y, W)}
    weighted = base.dims[W] > 0
    asked = [s for s in open if edges and all(given[k] is not None or (k == W and not weighted) for k in reads[s])]
    rows = [None if a is None else by_edge.gathered(base, s, a, where, edges) for s, a in enumerate(given)]
    one_w = base.rows[W] == SHARED
    found = {s: like.new_zeros(1 if s == W and one_w else edges, base.dims[s]) for s in asked}
    paths = [path for path in _paths(base.text) if fixed or path.weighted] if asked else []
    for path in paths:
        _add(base, path, rows, found, like)
    return [by_edge.summed(base, s, found.get(s), where, n, like) for s, n in open.items()]


def _add(base: Program, path: _Path, rows: list[Tensor | None], found: dict[int, Tensor], like: Tensor) -> None:
    """Add what a path gives to each result, some edges at a time."""
    dim = path.z.shape[path.z.letters.index("k")]
    edges = max(len(a) for a in (*rows, *found.values()) if a is not None)
    step = max(1, LIMIT // (like.element_size() * dim * int(np.prod(path.sizes))))
    one_w = base.rows[W] == SHARED

    def some(slot: int, a: Tensor | None, first: int) -> Tensor | None:
        return a if a is None or (slot == W and one_w) else a[first : first + step]

    for first in range(0, edges, step):
        given = [some(slot, a, first) for slot, a in enumerate(rows)]
        _Block(base, path, given, like).add({s: some(s, a, first) for s, a in found.items()})  # type: ignore[misc]


class _Block:
    """One path at some edges."""

    def __init__(self, base: Program, path: _Path, rows: list[Tensor | None], like: Tensor) -> None:
        self.path, self.like = path, like
        x, y, w, g = rows
        self.x, self.y, self.g = (
            None if a is None else part.of(a) for part, a in ((path.x, x), (path.y, y), (path.z, g))
        )
        self.symbol = _symbol(base.text, path.number, like.dtype, like.device)
        # einsum's letters: n for edges, where w has a row for each
        self.by_row = path.weighted and base.rows[W] != SHARED
        self.to_w = "n" * self.by_row + path.w.letters
        if path.weighted:
            self.w = None if w is None else path.w.of(w) if self.by_row else path.w.of(w)[0]
        else:
            self.w = like.new_ones(path.w.shape)
        # Weights of an edge are many: their order of channels is kept, else that of the matrix product.
        self.coupled = "nk" + (path.coupled if self.by_row or path.pairs else path.coupled[::-1])
        self.weighed = "nkp" if path.pairs else self.coupled
        self.t = f"n{path.y.letters.replace('j', '')}ik"

    def add(self, found: dict[int, Tensor]) -> None:
        """To each result's rows."""
        path, inputs = self.path, X in found or Y in found
        x, y, z = ("n" + part.letters for part in (path.x, path.y, path.z))
        t = None if self.y is None else torch.einsum(f"{y},ijk->{self.t}", self.y, self.symbol)
        if Z in found or W in found:
            a = self._picked(torch.einsum(f"{self.t},{x}->{self.coupled}", t, self.x))
            if Z in found:
                path.z.of(found[Z]).add_(torch.einsum(f"{self.weighed},{self.to_w}->{z}", a, self.w))
            if W in found and path.weighted:
                into = path.w.of(found[W])
                (into if self.by_row else into[0]).add_(torch.einsum(f"{self.weighed},{z}->{self.to_w}", a, self.g))
        if not inputs:
            return
        da = self._spread(torch.einsum(f"{z},{self.to_w}->{self.weighed}", self.g, self.w))
        if X in found:
            path.x.of(found[X]).add_(torch.einsum(f"{self.t},{self.coupled}->{x}", t, da))
        if Y in found:
            dt = torch.einsum(f"{x},{self.coupled}->{self.t}", self.x, da)
            path.y.of(found[Y]).add_(torch.einsum(f"{self.t},ijk->{y}", dt, self.symbol))

    def _picked(self, a: Tensor) -> Tensor:
        """(E, k, pairs u < v) of (E, k, u, v), where the path reads those alone."""
        if not self.path.pairs:
            return a
        return a.flatten(2).index_select(2, _pairs(self.path.sizes[0], a.device))

    def _spread(self, da: Tensor) -> Tensor:
        """The reverse, zero elsewhere."""
        if not self.path.pairs:
            return da
        m = self.path.sizes[0]
        whole = da.new_zeros(*da.shape[:2], m * m)
        return whole.index_copy_(2, _pairs(m, da.device), da).unflatten(2, (m, m))


@cache
def _as_product(text: str) -> Program:
    """A linear map as the product with y = 1."""
    program = parse(text)
    x, w, z = program.operands
    # The 3j symbol (l, 0, l) is the unit matrix over sqrt(2l + 1).
    paths = [Path(p.in1, 0, p.out, "uvw", p.scale * sqrt(z.irreps[p.out].ir.dim)) for p in program.paths]  # type: ignore[index]
    return Program("product", program.layout, (x, Operand("y", SHARED, Irreps("0e")), w, z), tuple(paths))


def _linear(base: Program, operands: list[Tensor], index: list[Tensor], open: dict[int, int]) -> list[Tensor]:
    x, w, g = operands
    one = next(a for a in operands if a.ndim == 2).new_ones(1, 1)
    slots = (X, W, Z)
    return sweep(_as_product(base.text), [x, one, w, g], index, {slots[s]: n for s, n in open.items()})
