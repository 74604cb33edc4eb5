"""Neighbour lists: who is within the cutoff of whom, with periodic images; and lists with a skin for dynamics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from equikern.errors import EquikernError, ShapeError
from equikern.graph.graph import Graph
from equikern.ops.values import on_host

# A cell whose volume is below this share of the product of its lengths is flat: no lattice.
FLAT = 1e-6


@dataclass(frozen=True)
class Neighbours:
    """Edges of a neighbour list: edge_index (2, E), senders and receivers, and shifts (E, 3), integer cell offsets."""

    edge_index: Tensor
    shifts: Tensor
    num_nodes: int

    @cached_property
    def graph(self) -> Graph:
        """The edges as layers take them."""
        return Graph(self.edge_index, self.num_nodes)

    def vectors(self, positions: Tensor, cell: Tensor | None = None, batch: Tensor | None = None) -> Tensor:
        """edge_vec (E, 3) = positions[sender] + shifts @ cell - positions[receiver], differentiable.

        positions (N, 3); cell (3, 3) or (B, 3, 3), rows are lattice vectors; batch (N,), the structure of each atom.
        """
        sender, receiver = self.edge_index
        vec = positions.index_select(0, sender) - positions.index_select(0, receiver)
        if cell is None:
            return vec
        shifts, cell = self.shifts.to(vec.dtype), cell.to(vec.dtype).reshape(-1, 3, 3)
        if batch is None or cell.shape[0] == 1:
            return vec + shifts @ cell[0]
        return vec + (shifts.unsqueeze(1) @ cell[batch[receiver]]).squeeze(1)

    def select(self, kept: Tensor) -> Neighbours:
        """The edges where kept (E,) is true."""
        return Neighbours(self.edge_index[:, kept], self.shifts[kept], self.num_nodes)


def neighbours(
    positions: Tensor,
    cutoff: float,
    cell: Tensor | None = None,
    pbc: Tensor | Sequence[bool] | bool | None = None,
    batch: Tensor | None = None,
) -> Neighbours:
    """All edges shorter than `cutoff`, both directions, sorted by receiver in each structure.

    positions (N, 3), in the cell or not; cell (3, 3) or (B, 3, 3), rows are lattice vectors, of any shape and thinner
    than the cutoff too: an atom may be its own neighbour, or another's several times. pbc: periodic directions, one
    bool, (3,) or (B, 3); left out, a cell other than zero is periodic in all. batch (N,): the structure of each atom;
    there are no edges between structures. The search is vesin's, in float64 on the CPU.
    Raises ShapeError for shapes that do not fit, EquikernError for positions that are not finite and flat cells.

    >>> found = neighbours(torch.tensor([[0.0, 0, 0], [0, 0, 1]]), 1.5)
    >>> found.edge_index
    tensor([[1, 0],
            [0, 1]])
    """
    return search(positions, cutoff, *check_structures(positions, cell, pbc, batch))


def search(positions: Tensor, cutoff: float, cell: Tensor, pbc: Tensor, batch: Tensor) -> Neighbours:
    """`neighbours` of arguments that `check_structures` gave: cell (B, 3, 3), pbc (B, 3), batch (N,)."""
    if not 0 < cutoff < float("inf"):
        raise EquikernError(f"neighbours: the cutoff is a finite length above 0; got {cutoff!r}.")
    home, points, lattice = positions.device, positions.detach().double().cpu(), cell.detach().double().cpu()
    if len(lattice) == 1:
        edges, shifts = _of_one(points, cutoff, lattice[0], pbc[0].cpu())
        return Neighbours(edges.to(home), shifts.to(home), len(points))
    parts, images = [torch.empty(2, 0, dtype=torch.int64)], [torch.empty(0, 3, dtype=torch.int64)]
    for number, (box, periodic) in enumerate(zip(lattice, pbc.cpu(), strict=True)):
        atoms = (batch.cpu() == number).nonzero().squeeze(1)
        edges, shifts = _of_one(points[atoms], cutoff, box, periodic)
        parts.append(atoms[edges])
        images.append(shifts)
    return Neighbours(torch.cat(parts, 1).to(home), torch.cat(images).to(home), len(points))


class VerletList:
    """A neighbour list for dynamics: a list with a skin, searched again only when an atom moved more than skin / 2.

    Call it as `neighbours`, without the cutoff, and the same edges come, in another order: those of the skin are left
    out. Another cell, other periodic directions or another number of atoms are searched at once. `searches` counts.
    A call looks at the positions, so that it waits for a device: where no step may wait, keep the edges of `neighbours`
    with a longer cutoff for some steps.
    """

    def __init__(self, cutoff: float, skin: float = 0.5) -> None:
        if not 0 <= skin < float("inf"):
            raise EquikernError(f"VerletList: the skin is a finite length, 0 or more; got {skin!r}.")
        self.cutoff, self.skin, self.searches = cutoff, skin, 0
        self._searched_at: list[Tensor] | None = None
        self._wide: Neighbours | None = None
        self._inside: Tensor | None = None

    def __call__(
        self,
        positions: Tensor,
        cell: Tensor | None = None,
        pbc: Tensor | Sequence[bool] | bool | None = None,
        batch: Tensor | None = None,
    ) -> Neighbours:
        """The edges at `positions`; the arguments of `neighbours`."""
        # The same atoms on the CPU: the cell is looked at where it has changed.
        wide = self._wide
        same = wide is not None and positions.shape[:1] == (wide.num_nodes,) and on_host(positions)
        known = wide.graph if wide is not None and same else None
        cell, pbc, batch = check_structures(positions, cell, pbc, batch, known)
        positions, cell = positions.detach(), cell.detach()
        given = [positions, cell, pbc, batch]
        if self._wide is None or self._moved(given):
            self._wide = search(positions, self.cutoff + self.skin, cell, pbc, batch)
            self._searched_at = [t.clone() for t in given]
            self._inside = None
            self.searches += 1
        inside = self._wide.vectors(positions, cell, batch).norm(dim=1) < self.cutoff
        if self._inside is None or not torch.equal(inside, self._inside):
            self._inside, self._found = inside, self._wide.select(inside)
        return self._found

    def _moved(self, given: list[Tensor]) -> bool:
        if self._searched_at is None:
            return True
        for now, then in zip(given, self._searched_at, strict=True):
            if (now.shape, now.dtype, now.device) != (then.shape, then.dtype, then.device):
                return True
        if not all(map(torch.equal, given[1:], self._searched_at[1:])):
            return True
        return bool((given[0] - self._searched_at[0]).norm(dim=1).gt(self.skin / 2).any())


def check_structures(
    positions: Tensor,
    cell: Tensor | None = None,
    pbc: Tensor | Sequence[bool] | bool | None = None,
    batch: Tensor | None = None,
    graph: Graph | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The arguments of `neighbours` in full: cells (B, 3, 3), periodic directions (B, 3) and batch (N,).

    No cell is a cell of zeros, no batch is one structure. Raises as `neighbours`. With a graph of the atoms, the same
    cell, pbc and batch are looked at once, and positions on a device are not looked at.
    """
    if positions.ndim != 2 or positions.shape[1] != 3 or not positions.is_floating_point():
        raise ShapeError(f"positions are {tuple(positions.shape)} {positions.dtype}; expected (N, 3) floating point.")
    if (graph is None or on_host(positions)) and not bool(positions.isfinite().all()):
        atom = int((~positions.isfinite()).any(1).nonzero()[0])
        raise EquikernError(f"the position of atom {atom} is {positions[atom].tolist()}; positions must be finite.")
    if not (pbc is None or isinstance(pbc, Tensor)):
        pbc = np.asarray(pbc, dtype=bool).tolist()

    def look() -> tuple[Tensor, Tensor]:
        atoms = torch.zeros(len(positions), dtype=torch.int64, device=positions.device) if batch is None else batch
        lattice = positions.new_zeros(3, 3) if cell is None else cell.detach()
        structures = _structures(positions, lattice, atoms)
        return _periodic(lattice.reshape(-1, 3, 3).expand(structures, 3, 3), pbc), atoms.long()

    if graph is None:
        periodic, atoms = look()
    else:
        periodic, atoms = graph.once("structures", lambda: [t.clone() for t in look()], cell, pbc, batch)
    cell = positions.new_zeros(3, 3) if cell is None else cell
    return cell.reshape(-1, 3, 3).expand(len(periodic), 3, 3), periodic, atoms


def volume(cell: Tensor) -> Tensor:
    """|det| of cells (..., 3, 3), the triple product of their rows."""
    a, b, c = cell.unbind(-2)
    return (torch.linalg.cross(a, b) * c).sum(-1).abs()


def _structures(positions: Tensor, cell: Tensor, batch: Tensor) -> int:
    """B, after checks of the shapes."""
    if batch.shape != positions.shape[:1] or batch.dtype not in (torch.int32, torch.int64):
        raise ShapeError(
            f"batch is {tuple(batch.shape)} {batch.dtype}; expected ({len(positions)},) integers, one for each atom."
        )
    least, most = (int(batch.min()), int(batch.max()) + 1) if len(batch) else (0, 1)
    if cell.shape[-2:] != (3, 3) or cell.ndim > 3:
        raise ShapeError(f"the cell is {tuple(cell.shape)}; expected (3, 3) or (B, 3, 3), rows are lattice vectors.")
    structures = most if cell.ndim == 2 else len(cell)
    if least < 0 or most > structures:
        raise ShapeError(f"batch holds numbers from {least} to {most - 1}; there are {structures} structures.")
    return structures


def _periodic(cell: Tensor, pbc: Tensor | Sequence[bool] | bool | None) -> Tensor:
    """The periodic directions (B, 3) of cells (B, 3, 3), after the check that those span a volume."""
    if pbc is None:
        pbc = (cell != 0).flatten(1).any(1, keepdim=True)
    pbc = torch.as_tensor(pbc, dtype=torch.bool, device=cell.device)
    if pbc.shape not in ((), (3,), (len(cell), 1), (len(cell), 3)):
        raise ShapeError(f"pbc is {tuple(pbc.shape)}; expected one bool, (3,) or ({len(cell)}, 3).")
    pbc = pbc.expand(len(cell), 3)
    if not bool(pbc.any()):
        return pbc
    # Directions that are not periodic span a volume of 1 of their own.
    rows = torch.where(pbc.unsqueeze(2), cell.detach().double(), 0.0)
    gram = rows @ rows.mT + torch.diag_embed((~pbc).double())  # (B, 3, 3)
    lengths = gram.diagonal(dim1=1, dim2=2).prod(1)
    flat = ~(volume(gram) > FLAT**2 * lengths)  # of the rows, squared; NaN is flat
    if bool(flat.any()):
        number = int(flat.nonzero()[0])
        raise EquikernError(
            f"the cell of structure {number}, {cell[number].tolist()}, periodic along {pbc[number].tolist()}, has no "
            "volume; give lattice vectors that are independent, or no cell for a molecule."
        )
    return pbc


def _of_one(positions: Tensor, cutoff: float, cell: Tensor, pbc: Tensor) -> tuple[Tensor, Tensor]:
    """Edges (2, E) and shifts (E, 3) of one structure, float64 on the CPU."""
    try:
        from vesin import NeighborList
    except ImportError:
        raise EquikernError(
            "neighbour lists are searched by vesin, which is not installed: pip install vesin"
        ) from None
    search = NeighborList(cutoff=cutoff, full_list=True, sorted=True, n_threads=torch.get_num_threads())
    # Rows that are not periodic say nothing; vesin would refuse some of them.
    lattice = torch.where(pbc.unsqueeze(1), cell, 0.0)
    receiver, sender, shifts = search.compute(positions.numpy(), lattice.numpy(), pbc.numpy(), "ijS")
    edges = torch.stack([torch.from_numpy(ends.astype("int64")) for ends in (sender, receiver)])
    return edges, torch.from_numpy(shifts.astype("int64"))
