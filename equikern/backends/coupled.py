"""Products in every connection mode on any device: x and y coupled edge by edge, then weighed, as matrix products.

Of a path, y makes the matrices T_ik = sum over j of C_ijk y_j, these and x the coupled channels A_k = sum over i of
x_i T_ik: for each pair (u, v) of channels, or for equal channels; the weights take A to z. Gradients go the same way
back, and share T and A.
"""

from __future__ import annotations

from functools import cache, lru_cache
from math import prod, sqrt
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from equikern.backends import by_edge
from equikern.backends.couplings import Equal, Pairs
from equikern.backends.species_rows import Tiles
from equikern.program import SHARED, Irreps, Operand, Path, Program, parse, wigner_3j
from equikern.program.program import W, X, Y, Z, mode_shapes

LIMIT = 1 << 28  # bytes of a path's coupled channels at once
TILE = 64  # edges of a row of z that are summed at once


class _Part(NamedTuple):
    """Columns of an operand, their shape, and a letter for each axis (u v w of channels, i j k of components)."""

    columns: slice
    shape: tuple[int, ...]
    letters: str

    def of(self, rows: Tensor) -> Tensor:
        """(rows, *shape), a view."""
        return rows[..., self.columns].unflatten(-1, self.shape)


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
        if path.mode == "uuw" and not path.weighted:
            of_z = ""
        sizes_z = muls[:2] if of_z == "uv" else (muls[2],) if of_z else ()
        found.append(
            _Path(
                n,
                part(x, path.in1, "u", muls[:1], "i"),  # type: ignore[arg-type]
                part(y, path.in2, of_y, muls[1:2], "j"),  # type: ignore[arg-type]
                _Part(columns, shape, of_w),
                part(z, path.out, of_z, sizes_z, "k"),  # type: ignore[arg-type]
                coupled,
                tuple(size[c] for c in coupled),
                "p" in of_w,
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
    needed = (X, Y, W, Z) if base.dims[W] else (X, Y, Z)
    asked = [s for s in open if edges and base.dims[s] and all(given[k] is not None for k in needed if k != s)]
    if not asked:
        return [like.new_zeros(n, base.dims[s]) for s, n in open.items()]
    rows = [None if a is None else by_edge.gathered(base, s, a, where, edges) for s, a in enumerate(given)]
    if base.rows[Z] not in where or (base.rows[W] != SHARED and base.dims[W]):
        found = _products(base, rows, {s: (1 if s == W and base.rows[W] == SHARED else edges,) for s in asked}, fixed)
        return [by_edge.summed(base, s, found.get(s), where, n, like) for s, n in open.items()]
    # The edges of a row of z are summed as they are coupled, a tile of edges at a time.
    g = given[Z]
    tiles = Tiles(where[base.rows[Z]], open[Z] if g is None else len(g), TILE)
    inside = (tiles.tiles, TILE)
    rows[:2] = [None if a is None else tiles.gathered(a).unflatten(0, inside) for a in rows[:2]]
    rows[Z] = None if g is None else g.index_select(0, tiles.species)
    sizes = {X: inside, Y: inside, W: (1,), Z: inside[:1]}
    found = _products(base, rows, {s: sizes[s] for s in asked}, fixed)
    found |= {s: tiles.restored(a.flatten(0, 1)) for s, a in found.items() if s in (X, Y)}
    z = {Z: tiles.summed(found.pop(Z))} if Z in found else {}
    return [z[s] if s in z else by_edge.summed(base, s, found.get(s), where, n, like) for s, n in open.items()]


def _products(
    base: Program, rows: list[Tensor | None], sizes: dict[int, tuple[int, ...]], fixed: bool
) -> dict[int, Tensor]:
    """The gradients of x y w g by rows, `sizes` of each; x and y may have an axis of rows (a tile's) that is summed."""
    like = next(a for a in rows if a is not None)
    found = {s: like.new_zeros(*size, base.dims[s]) for s, size in sizes.items()}
    tiled = any(a is not None and a.ndim == 3 for a in (*rows, *found.values()))
    every = [s for s in range(4) if s != W or base.rows[W] != SHARED]  # slots with a row each
    count = max(len(a) for s, a in (*enumerate(rows), *found.items()) if a is not None and s in every)
    for path in _paths(base.text):
        if not fixed and not path.weighted:
            continue
        products = _Products(base, path, tiled, like)
        # Some rows at a time: coupled channels are many.
        step = max(1, LIMIT // (like.element_size() * products.size))
        for first in range(0, count, step):
            some = slice(first, first + step)
            part = [a if a is None or s not in every else a[some] for s, a in enumerate(rows)]
            products.add(part, {s: a[some] if s in every else a for s, a in found.items()})
    return found


class _Products:
    """What one path gives: x and y coupled to A, A weighed to z. In einsum's letters rows are t, within a tile r."""

    def __init__(self, base: Program, path: _Path, tiled: bool, like: Tensor) -> None:
        self.path = path
        self.by_row = path.weighted and base.rows[W] != SHARED
        symbol = _symbol(base.text, path.number, like.dtype, like.device)
        # Weights of an edge are many: the order of their channels is kept.
        order = path.x.letters, path.y.letters, symbol, "tr" if tiled else "t", self.by_row or path.pairs
        self.coupling = Equal(*order) if path.coupled == "u" else Pairs(*order)
        self.w, self.z = "t" * self.by_row + path.w.letters, "t" + path.z.letters
        self.weighed = "tkp" if path.pairs else self.coupling.a
        self.summed = "".join(c for c in self.weighed if c not in self.z)
        size = {"t": 1, "r": TILE} | dict(zip(path.coupled, path.sizes, strict=True))
        for part in (path.x, path.y, path.z):
            size |= dict(zip(part.letters, part.shape, strict=True))
        self.size = max(prod(size[c] for c in letters) for letters in (self.coupling.a, self.coupling.t))
        # Without weights A is summed over the channels that z has not.
        self.ones = like.new_ones([size[c] for c in self.summed]) if self.summed and not path.weighted else None

    def add(self, rows: list[Tensor | None], found: dict[int, Tensor]) -> None:
        """To each result's rows, of x y w g."""
        path, coupling, (x, y, w, g) = self.path, self.coupling, rows
        x, y, g = (None if a is None else p.of(a) for p, a in ((path.x, x), (path.y, y), (path.z, g)))
        w = None if w is None or not path.weighted else path.w.of(w) if self.by_row else path.w.of(w)[0]
        t = None if y is None else coupling.matrices(y)
        if Z in found or (W in found and path.weighted):
            a = self._picked(coupling.coupled(x, t))  # type: ignore[arg-type]
            if Z in found:
                weighed = (a,) if not path.weighted else (a, w)
                letters = self.weighed if not path.weighted else f"{self.weighed},{self.w}"
                path.z.of(found[Z]).add_(torch.einsum(f"{letters}->{self.z}", *weighed))
            if W in found and path.weighted:
                into = path.w.of(found[W])
                (into if self.by_row else into[0]).add_(torch.einsum(f"{self.weighed},{self.z}->{self.w}", a, g))
        if X not in found and Y not in found:
            return
        da = self._spread(self._unweighed(g, w))  # type: ignore[arg-type]
        if X in found:
            path.x.of(found[X]).add_(coupling.grad_x(da, t))  # type: ignore[arg-type]
        if Y in found:
            path.y.of(found[Y]).add_(coupling.grad_y(da, x))  # type: ignore[arg-type]

    def _unweighed(self, g: Tensor, w: Tensor | None) -> Tensor:
        """The gradient of A, or of its pairs."""
        if self.path.weighted:
            return torch.einsum(f"{self.z},{self.w}->{self.weighed}", g, w)
        if self.ones is None:
            return torch.einsum(f"{self.z}->{self.weighed}", g)
        return torch.einsum(f"{self.z},{self.summed}->{self.weighed}", g, self.ones)

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
