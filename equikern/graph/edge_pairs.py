"""Pairs of edges that meet: q -> s, then s -> r."""

from __future__ import annotations

import torch
from torch import Tensor

from equikern.graph.graph import Graph

SAME_PLACE = 1e-2  # in the unit of edge_vec: images of an atom are a lattice vector apart


def edge_pairs(graph: Graph, edge_vec: Tensor) -> Tensor:
    """(2, T): row 0 the edges q -> s, row 1 the edges s -> r, over all q other than r, grouped by row 1.

    edge_vec (E, 3) tells images of a periodic system apart: q is r where it is the same atom at the same place. As an
    `edge_index` of a graph whose nodes are the E edges, this sends messages from edge to edge.
    """
    start, count = graph.ptr[graph.sender], graph.ptr[graph.sender + 1] - graph.ptr[graph.sender]  # (E,)
    onward = torch.arange(graph.num_edges, device=count.device).repeat_interleave(count)
    first = (count.cumsum(0) - count)[onward]
    inward = graph.order[start[onward] + torch.arange(onward.shape[0], device=count.device) - first]
    vec = edge_vec.detach()
    back = (graph.sender[inward] == graph.receiver[onward]) & ((vec[inward] + vec[onward]).abs().amax(1) < SAME_PLACE)
    return torch.stack([inward, onward])[:, ~back]
