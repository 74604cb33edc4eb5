"""Messages of SchNet and PaiNN: filter, gather and sum at the receivers as one program on the convolution's kernels.

Sources: K. T. Schütt et al., "SchNet", J. Chem. Phys. 148, 241722 (2018); K. T. Schütt, O. T. Unke and M. Gastegger,
"Equivariant message passing for the prediction of tensorial properties and molecular spectra", ICML 2021 (PaiNN).
"""

from __future__ import annotations

import torch
from torch import Tensor

from equikern.graph import Graph
from equikern.ops import evaluate
from equikern.program import painn_message, schnet_message


class SchNetMessage(torch.nn.Module):
    """SchNet's continuous-filter sum: out_i = sum over edges (j -> i) of h_j * filter_e, channel by channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.program = schnet_message(channels)

    def forward(self, h: Tensor, filters: Tensor, edge_index: Tensor, graph: Graph | None = None) -> Tensor:
        """h (N, C), filters (E, C), edge_index (2, E) senders, receivers -> (N, C)."""
        graph = Graph.of(edge_index, h.shape[0], graph)
        one = filters.new_ones(graph.num_edges, 1)
        return evaluate(self.program, (h, one, filters), graph.index, graph.num_nodes)


class PaiNNMessage(torch.nn.Module):
    """PaiNN's message, with s, r, v the thirds of phi_j * filter_e and u_e the direction of the edge:

    dq_i = sum s,   dmu_i = sum (r u_e + v mu_j)   over the edges (j -> i).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.program = painn_message(channels)

    def forward(
        self,
        phi: Tensor,
        mu: Tensor,
        filters: Tensor,
        direction: Tensor,
        edge_index: Tensor,
        graph: Graph | None = None,
    ) -> tuple[Tensor, Tensor]:
        """phi (N, 3C), mu (N, 3, C), filters (E, 3C), direction (E, 3), edge_index (2, E) -> (N, C), (N, 3, C)."""
        c = self.channels
        graph = Graph.of(edge_index, phi.shape[0], graph)
        x = torch.cat([phi[:, : 2 * c], (phi[:, None, 2 * c :] * mu).flatten(1)], 1)  # (N, C 0e + C 0e + C 1o)
        y = torch.cat([direction.new_ones(direction.shape[0], 1), direction], 1)  # (E, 0e + 1o)
        out = evaluate(self.program, (x, y, filters), graph.index, graph.num_nodes)
        return out[:, :c], out[:, c:].unflatten(1, (3, c))
