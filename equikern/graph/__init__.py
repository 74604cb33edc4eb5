"""Graphs: edges with the plan that kernels need, and the pairs of edges that meet."""

from equikern.graph.edge_pairs import edge_pairs
from equikern.graph.graph import Graph

__all__ = ["Graph", "edge_pairs"]
