"""Rows brought together by their species, so that each matrix of weights multiplies its rows at once."""

from __future__ import annotations

import torch
from torch import Tensor

from equikern.backends.by_edge import sum_in_order
from equikern.backends.mixing import multiply

TILE = 32  # rows of a tile
FEW = 256  # rows that are not worth sorting


class Single:
    """All rows, of one species."""

    def gathered(self, a: Tensor) -> Tensor:
        """Rows (N, columns) in the order in which they are multiplied."""
        return a.contiguous()

    def empty(self, like: Tensor, rows: int, columns: int) -> Tensor:
        """Such rows, not written."""
        return like.new_empty(rows, columns)

    def restored(self, a: Tensor) -> Tensor:
        """Rows in the order outside."""
        return a

    def multiply(self, a: Tensor, weights: Tensor, out: Tensor, scale: float, *, add: bool) -> None:
        """out = scale a W, or added, with the W (m1, m3) of each row's species: `weights` (species, m1, m3)."""
        multiply(a, weights[0], out, scale, add=add)

    def outer(self, a: Tensor, b: Tensor, out: Tensor, scale: float) -> None:
        """out (species, m1, m3) = scale times the sum of a^T b over the rows of each species; it holds zeros before."""
        multiply(a.t(), b, out[0], scale, add=False)


class Tiles(Single):
    """Rows in tiles of one species each, filled up with zeros: how many there are follows from shapes alone.

    So nothing waits for the device. N rows of P species that occur take at most (N + P (size - 1)) / size tiles.
    """

    def __init__(self, species: Tensor, count: int, size: int = TILE) -> None:
        rows, self.size = len(species), size
        self.tiles = (rows + min(rows, count) * (size - 1)) // size
        grouped, order = torch.sort(species, stable=True)
        ptr = torch.searchsorted(grouped, torch.arange(count + 1, device=species.device))
        ends = ((ptr.diff() + size - 1) // size).cumsum(0)
        self.ptr = torch.nn.functional.pad(ends, (1, 0))  # the tiles of a species
        places = self.ptr[grouped] * size + torch.arange(rows, device=species.device) - ptr[grouped]
        self.places = torch.empty_like(order).index_copy_(0, order, places)
        tile = torch.arange(self.tiles, device=species.device)
        self.species = torch.searchsorted(ends, tile, right=True).clamp_(max=max(count - 1, 0))

    def gathered(self, a: Tensor) -> Tensor:
        return a.new_zeros(self.tiles * self.size, a.shape[1]).index_copy_(0, self.places, a)

    def empty(self, like: Tensor, rows: int, columns: int) -> Tensor:
        return like.new_empty(self.tiles * self.size, columns)

    def restored(self, a: Tensor) -> Tensor:
        return a.index_select(0, self.places)

    def multiply(self, a: Tensor, weights: Tensor, out: Tensor, scale: float, *, add: bool) -> None:
        chosen = weights.index_select(0, self.species)
        self._tiles(out).baddbmm_(self._tiles(a), chosen, beta=float(add), alpha=scale)

    def outer(self, a: Tensor, b: Tensor, out: Tensor, scale: float) -> None:
        sums = torch.bmm(self._tiles(a).mT, self._tiles(b)).flatten(1)
        torch.mul(self.summed(sums).view(out.shape), scale, out=out)

    def summed(self, a: Tensor) -> Tensor:
        """(species, columns): rows (tiles, columns) summed, in the order of tiles: the same bits every time."""
        return torch.segment_reduce(a, "sum", offsets=self.ptr, axis=0, unsafe=True)

    def _tiles(self, a: Tensor) -> Tensor:
        """(tiles, size * components, channels)."""
        return a.unflatten(0, (self.tiles, len(a) // max(self.tiles, 1)))


class Each(Tiles):
    """Every row a tile of its own: nothing is sorted, and each row's weights are read for it alone."""

    def __init__(self, species: Tensor, count: int) -> None:
        self.tiles, self.size, self.species, self.count = len(species), 1, species, count

    def gathered(self, a: Tensor) -> Tensor:
        return a.contiguous()

    def restored(self, a: Tensor) -> Tensor:
        return a

    def summed(self, a: Tensor) -> Tensor:
        """(species, columns): rows summed in their order."""
        return sum_in_order(a, self.species, self.count)


def tiled(species: Tensor, count: int) -> Tiles:
    """The grouping for devices: few rows one by one, many in tiles."""
    return Each(species, count) if len(species) <= FEW else Tiles(species, count)
