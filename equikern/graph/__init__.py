"""Graphs: edges checked once and grouped by receiver, pairs of edges that meet; neighbour lists."""

from equikern.graph.edge_pairs import edge_pairs
from equikern.graph.graph import Graph
from equikern.graph.neighbours import Neighbours, VerletList, check_structures, neighbours, search, volume

__all__ = ["Graph", "Neighbours", "VerletList", "check_structures", "edge_pairs", "neighbours", "search", "volume"]
