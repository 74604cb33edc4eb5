"""Products with scalars y that few rows share (of atoms' species): a linear map for each row of y.

With y[species] the rows of one species have one matrix of weights, sum over v of y_v W[u, v, w]; gradients of y and W
follow from that of those matrices. It costs what a linear map costs, not y's channels times as much.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from equikern.backends import linear
from equikern.backends.mixing import mixes_all
from equikern.errors import ShapeError
from equikern.program import EDGE, SHARED, Irreps, Program, linear_of_species, parse
from equikern.program.program import W, X, Y, Z

# a linear map, its operands x w z, the species, rows of each opened slot -> one tensor a slot
Maps = Callable[[Program, list[Tensor], list[Tensor], dict[int, int]], list[Tensor]]


@cache
def takes(text: str) -> bool:
    """Whether all of a program's paths mix channels by shared weights and read scalars of indexed rows of y."""
    rows = parse(text).rows
    if not mixes_all(text) or not rows[X] == rows[Z] == EDGE or rows[Y] in (EDGE, SHARED):
        return False
    return all(ir.l == 0 for _, ir in parse(text).operands[Y].irreps)  # type: ignore[union-attr]


@cache
def _linear(text: str) -> Program:
    """The linear map by species; its segments are all even, for a pseudoscalar y changes their parity."""
    x, y, w, z = (
        o if isinstance(o.irreps, int) else o._replace(irreps=Irreps([(mul, (ir.l, 1)) for mul, ir in o.irreps]))
        for o in parse(text).operands
    )
    return linear_of_species(replace(parse(text), operands=(x, y, w, z)))


def sweep(
    base: Program,
    operands: list[Tensor],
    index: list[Tensor],
    open: dict[int, int],
    maps: Maps,
    *,
    looks: bool,
) -> list[Tensor]:
    """dF/da for each open slot; `operands` are x y w g, `index` holds the species of the rows.

    `maps` sweeps the linear map by species; `looks`: the host may look which species there are.
    """
    given = [a if a.ndim == 2 else None for a in operands]
    like = next(a for a in given if a is not None)
    rows = linear.check_species(index[0], like)
    count = open.get(Y, 0) if given[Y] is None else given[Y].shape[0]  # type: ignore[union-attr]
    _check(base, given, (rows, count, 1, rows), open, like)
    asked = [s for s in open if rows and all(given[k] is not None for k in (X, Y, W, Z) if k != s)]
    found = _Call(base, given, like, *_present(index[0], count, looks)).run(asked, open, maps) if asked else {}
    return [found[s] if s in found else like.new_zeros(n, base.dims[s]) for s, n in open.items()]


def _check(
    base: Program, given: list[Tensor | None], counts: tuple[int, ...], open: dict[int, int], like: Tensor
) -> None:
    """Raise ShapeError for tensors that do not fit."""
    for slot, (a, n) in enumerate(zip(given, counts, strict=True)):
        wrong = a is not None and (a.shape != (n, base.dims[slot]) or a.dtype != like.dtype or a.device != like.device)
        if wrong or open.get(slot, n) != n:
            raise ShapeError(
                f"slot {slot} is not {(n, base.dims[slot])} {like.dtype} on {like.device}.\n  program   {base}"
            )


def _present(species: Tensor, count: int, looks: bool) -> tuple[Tensor | None, Tensor]:
    """The species that there are and the place of each row's among them; all of them where the host must not wait."""
    if not looks:
        return None, species
    present, places = species.unique(return_inverse=True)
    if len(present) and not 0 <= int(present[0]) <= int(present[-1]) < count:
        raise ShapeError(f"species index out of range: there are {count}, it reaches {int(present[-1])}.")
    return present, places


class _Call:
    """One call, its operands checked; y of the species that there are."""

    def __init__(
        self, base: Program, given: list[Tensor | None], like: Tensor, present: Tensor | None, places: Tensor
    ) -> None:
        self.base, self.like, self.present, self.places = base, like, present, places
        self.x, self.y, self.w, self.g = given
        if self.y is not None and present is not None:
            self.y = self.y.index_select(0, present)
        self.linear = _linear(base.text)
        y_slices = base.operands[Y].irreps.slices()  # type: ignore[union-attr]
        # of each path: columns of y, of w, of the linear map's weights; multiplicities
        self.paths = [
            (y_slices[path.in2], columns, into, base.multiplicities(path))
            for path, columns, into in zip(base.paths, base.weight_slices, self.linear.weight_slices, strict=True)
        ]

    def run(self, asked: list[int], open: dict[int, int], maps: Maps) -> dict[int, Tensor]:
        """The results that can be had."""
        count = self.y.shape[0] if self.y is not None else len(self.present) if self.present is not None else open[Y]
        absent = self.like.new_empty(0)
        weights = self._weights() if X in asked or Z in asked else absent
        opened = {s: open[slot] for s, slot in ((linear.X, X), (linear.Z, Z)) if slot in asked}
        if Y in asked or W in asked:
            opened[linear.W] = count
        operands = [absent if self.x is None else self.x, weights, absent if self.g is None else self.g]
        parts = maps(self.linear, operands, [self.places], opened)
        found = dict(zip([{linear.X: X, linear.Z: Z}.get(s, -1) for s in opened], parts, strict=True))
        if linear.W in opened:
            sums = found.pop(-1)
            if W in asked:
                found[W] = self._grad_w(sums)
            if Y in asked:
                dy = self._grad_y(sums)
                empty = self.like.new_zeros(open[Y], self.base.dims[Y])
                found[Y] = dy if self.present is None else empty.index_copy_(0, self.present, dy)
        return found

    def _weights(self) -> Tensor:
        """(species, n) of the linear map: sum over v of y_v w[u, v, w], path after path."""
        assert self.y is not None and self.w is not None
        made = self.like.new_empty(self.y.shape[0], self.linear.dims[linear.W])
        for of_y, columns, into, muls in self.paths:
            products = self._chosen(self.y[:, of_y], self.w[0, columns].view(muls))  # (u, species, w)
            made[:, into].unflatten(1, muls[::2]).copy_(products.transpose(0, 1))
        return made

    def _chosen(self, y: Tensor, weight: Tensor) -> Tensor:
        """(u, species, w): sum over v of y_v weight[u, v, w]; one-hot y, where the host may look, choose."""
        if self.present is not None and bool(((nonzero := y != 0).sum(1) == 1).all()):
            at = nonzero.int().argmax(1, keepdim=True)
            return weight.index_select(1, at.flatten()) * y.gather(1, at)
        return torch.matmul(y, weight)

    def _grad_w(self, sums: Tensor) -> Tensor:
        assert self.y is not None
        dw = self.like.new_empty(1, self.base.dims[W])
        for of_y, columns, into, muls in self.paths:
            by_u = sums[:, into].unflatten(1, muls[::2]).transpose(0, 1)  # (u, species, w)
            dw[0, columns].view(muls).copy_(torch.matmul(self.y[:, of_y].t(), by_u))
        return dw

    def _grad_y(self, sums: Tensor) -> Tensor:
        assert self.w is not None
        dy = self.like.new_zeros(sums.shape[0], self.base.dims[Y])
        for of_y, columns, into, (m1, m2, m3) in self.paths:
            by_v = self.w[0, columns].view(m1, m2, m3).transpose(0, 1).flatten(1)  # (v, u * w)
            dy[:, of_y].addmm_(sums[:, into], by_v.t())
        return dy
