"""`RadialConvolution`: a convolution whose weights are a function of the edge length, fused to the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from equikern import backends
from equikern.errors import ProgramError, ShapeError
from equikern.graph import Graph
from equikern.nn._radial_table import RadialTable
from equikern.ops import evaluate, spherical_harmonics
from equikern.ops.radial import length
from equikern.ops.spline import OFFSETS
from equikern.program import CONVOLUTION, Irreps, tabled
from equikern.program import product as product_program


class RadialConvolution(torch.nn.Module):
    """out_i = sum over edges e = (j -> i) of radial(|r_e|) times the tensor product of x_j and Y(r_e / |r_e|).

    The arguments of `Convolution`, with harmonics for y (irreps_y are 0e, 1o, 2e, ... or any one-channel irreps of
    degree l, normalised by component), and

    radial: a module, lengths (E,) to weights (E, weight_numel); with `num_species` it is called with the species of
    sender and receiver too, (E,) each, integers. It should contain the cutoff, and be smooth up to a few kinks.
    r_max: where the cutoff ends, in the unit of edge_vec; longer edges take the weights at r_max.
    table: None reads the weights from a `RadialTable` in float32 on the CPU, unless the backend is `reference`, True
    also in float64, on devices and under the reference, False never. The table is exact
    to 1e-7 of the largest weight (slopes 3e-6 per unit of length) or not used, trains like the module itself, and no
    array of edges x weights or edges x outputs exists in any pass. The module itself runs where edges are few (in
    training fewer than eight times the table's intervals, else than 32), or shorter than r_max / 10;
    `self.table.why_not()` says why a table was refused.

    On a CUDA device, with table=True, evaluation waits for nothing: edges shorter than r_max / 10 give NaN (see
    `RadialTable`). In training a table is made in each step, which waits, and its gradient is made of that of the
    weights, which takes the memory of edges x weights.

    Raises ProgramError for an impossible path, or irreps_y that are no harmonics.
    """

    def __init__(
        self,
        irreps_x: Any,
        irreps_y: Any,
        irreps_out: Any,
        instructions: Sequence[Sequence[Any]],
        *,
        radial: torch.nn.Module,
        r_max: float,
        num_species: int | None = None,
        table: bool | None = None,
        irrep_normalization: str = "component",
        path_normalization: str = "element",
        layout: str = "mul_ir",
    ) -> None:
        super().__init__()
        self.irreps_x, self.irreps_y, self.irreps_out = Irreps(irreps_x), Irreps(irreps_y), Irreps(irreps_out)
        if any(mul != 1 for mul, _ in self.irreps_y):
            raise ProgramError(f"irreps_y are harmonics, one channel for each degree; got {self.irreps_y}.")
        self.program = product_program(
            self.irreps_x,
            self.irreps_y,
            self.irreps_out,
            instructions,
            rows=CONVOLUTION,
            layout=layout,
            irrep_normalization=irrep_normalization,
            path_normalization=path_normalization,
        )
        self.tabled_program = tabled(self.program, OFFSETS)
        self.weight_numel = self.program.dims[2]
        self.radial, self.num_species, self.use_table = radial, num_species, table
        self.table = RadialTable(radial, r_max, species=num_species or 0)

    def forward(
        self,
        x: Tensor,
        edge_vec: Tensor,
        edge_index: Tensor,
        *,
        species: Tensor | None = None,
        graph: Graph | None = None,
    ) -> Tensor:
        """x (N, dim_x), edge_vec (E, 3), edge_index (2, E) senders, receivers, species (N,) integers -> (N, dim_out).

        edge_vec is position[sender] + shifts @ cell - position[receiver]. `graph`, made once by `Graph(edge_index, N)`,
        saves the checks and the sort of the edges.
        """
        graph = Graph.of(edge_index, x.shape[0], graph)
        if edge_vec.shape != (graph.num_edges, 3):
            raise ShapeError(f"edge_vec has shape {tuple(edge_vec.shape)}; the graph reads ({graph.num_edges}, 3).")
        y = spherical_harmonics([ir.l for _, ir in self.irreps_y], edge_vec, True, "component")
        return self.convolve(x, length(edge_vec), y, graph, species=species)

    def _reads(self, x: Tensor) -> bool:
        """Whether a table is wanted here, and a kernel reads one."""
        wanted = x.dtype == torch.float32 if self.use_table is None else self.use_table
        return wanted and backends.why_not(self.tabled_program.text, x.device.type, x.dtype) is None

    def convolve(self, x: Tensor, r: Tensor, y: Tensor, graph: Graph, *, species: Tensor | None = None) -> Tensor:
        """The sum for lengths r (E,) and harmonics y (E, dim_y), which several layers may share -> (N, dim_out)."""
        pairs = self._pairs(species, graph)
        if self._reads(x):
            pair = None if pairs is None else pairs[0] * self.table.species + pairs[1]
            read = self.table(r, x.dtype, pair, asked=bool(self.use_table))
            if read is not None:
                rows, b, knot = read
                index = [graph.sender, knot, *graph.index[1:]]
                return evaluate(self.tabled_program, (x, y, rows, b), index, graph.num_nodes)
        weight = self.radial(r) if pairs is None else self.radial(r, *pairs)
        return evaluate(self.program, (x, y, weight), graph.index, graph.num_nodes)

    def _pairs(self, species: Tensor | None, graph: Graph) -> tuple[Tensor, Tensor] | None:
        """The species of senders and receivers."""
        if (species is None) != (self.num_species is None):
            given = "none were given" if species is None else "num_species was not given to the layer"
            raise ShapeError(f"species and num_species go together: {given}.")
        if species is None or self.num_species is None:
            return None
        if species.ndim != 1 or species.dtype not in (torch.int32, torch.int64):
            raise ShapeError(f"species are integers (N,); got {tuple(species.shape)} {species.dtype}.")
        graph.check_species(species, self.num_species)
        return species[graph.sender].long(), species[graph.receiver].long()

    def extra_repr(self) -> str:
        return f"{self.irreps_x} x {self.irreps_y} -> {self.irreps_out}, {self.weight_numel} weights"
