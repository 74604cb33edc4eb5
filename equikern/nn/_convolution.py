"""`Convolution`: gather, tensor product and sum in one op."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from equikern.graph import Graph
from equikern.ops import evaluate
from equikern.program import CONVOLUTION, Irreps
from equikern.program import product as product_program


class Convolution(torch.nn.Module):
    """out_i = sum over edges e = (j -> i) of the weighted tensor product of x_j and y_e.

    Equal to e3nn's `TensorProduct(irreps_x, irreps_y, irreps_out, instructions)(x[sender], y, weight)` summed at the
    receivers: same instructions, normalisations, weight order, column order. It has no parameters.

    Arguments: irreps of x, y and the output; instructions `(in1, in2, out, mode, has_weight[, path_weight])`;
    `shared_weights` for one weight row for all edges. Raises ProgramError for an impossible path.
    """

    def __init__(
        self,
        irreps_x: Any,
        irreps_y: Any,
        irreps_out: Any,
        instructions: Sequence[Sequence[Any]],
        *,
        irrep_normalization: str = "component",
        path_normalization: str = "element",
        shared_weights: bool = False,
        layout: str = "mul_ir",
    ) -> None:
        super().__init__()
        self.irreps_x, self.irreps_y, self.irreps_out = Irreps(irreps_x), Irreps(irreps_y), Irreps(irreps_out)
        self.program = product_program(
            self.irreps_x,
            self.irreps_y,
            self.irreps_out,
            instructions,
            rows=CONVOLUTION._replace(w="shared" if shared_weights else "edge"),
            layout=layout,
            irrep_normalization=irrep_normalization,
            path_normalization=path_normalization,
        )
        self.weight_numel = self.program.dims[2]

    def forward(
        self, x: Tensor, y: Tensor, weight: Tensor | None, edge_index: Tensor, graph: Graph | None = None
    ) -> Tensor:
        """x (N, dim_x), y (E, dim_y), weight (E, weight_numel), edge_index (2, E) senders, receivers -> (N, dim_out).

        `graph`, made once by `Graph(edge_index, N)`, saves the checks and the sort of the edges.
        """
        graph = Graph.of(edge_index, x.shape[0], graph)
        return evaluate(self.program, (x, y, weight), graph.index, graph.num_nodes)

    def extra_repr(self) -> str:
        return f"{self.irreps_x} x {self.irreps_y} -> {self.irreps_out}, {self.weight_numel} weights"
