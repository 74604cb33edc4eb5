"""What the convolutions of e3nn's libraries share: gather, tensor product and sum at receivers in one op.

Weights come from the radial network, or in evaluation, in float32, from a table of the edge length: radial basis,
cutoff and radial network in one (`nn.RadialTable`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from equikern.graph import Graph
from equikern.interop.swap import Swap, why_not_native
from equikern.nn import RadialTable
from equikern.ops import evaluate
from equikern.ops.spline import OFFSETS
from equikern.program import Program, tabled


class ConvolutionSwap(Swap):
    """A stand-in that sums over edges; `program` reads x by sender, y and w by edge and gives z by receiver."""

    program: Program
    table: RadialTable | None = None

    def convolve(self, x: Tensor, y: Tensor, graph: Graph, r: Tensor | None, weight: Callable[[], Tensor]) -> Tensor:
        """sum over edges (j -> i) of w (x_j tensor y): x (N, dim), y (E, dim), r lengths (E,) or None -> (N, dim).

        w is read from the table at r where there is one, else it is weight(), (E, W).
        """
        if r is not None and self.table is not None and self.reads_table(x):
            read = self.table(r, x.dtype, asked=self.tables == "always")
            if read is not None:
                rows, b, knot = read
                index = [graph.sender, knot, *graph.index[1:]]
                return evaluate(self.tabled_program, (x, y, rows, b), index, graph.num_nodes)
        return evaluate(self.program, (x, y, weight()), graph.index, graph.num_nodes)

    def reads_table(self, x: Tensor) -> bool:
        """Whether weights that depend on the edge length alone may come from a table now: see `accelerate`."""
        wanted = self.tables == "always" or (self.tables == "evaluation" and not self.module.training)
        if not wanted or x.dtype != torch.float32 or torch.compiler.is_compiling():
            return False
        return why_not_native(self.tabled_program, x.device.type, x.dtype) is None

    @property
    def tabled_program(self) -> Program:
        """The program that reads the weights from a table."""
        return tabled(self.program, OFFSETS)
