"""Graphs: edges checked once and grouped by receiver, for use in many calls."""

from equikern.graph.graph import Graph

__all__ = ["Graph"]
