"""What is worked out from a tensor's values, remembered for as long as the tensor lives and stays as it is.

To look at values waits for a device. What the layers of a model must know of one input is looked at once a step.
Whether it stays as it is, `ops.values.Seen` tells.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from equikern.graph import Graph
from equikern.ops.values import Seen

Value = TypeVar("Value")
_known: Any = WeakTensorKeyDictionary()


def remembered(name: str, tensor: Tensor, make: Callable[[], Value]) -> Value:
    """make(), by name, once for as long as a tensor is unchanged. What it returns must not hold the tensor."""
    if torch.compiler.is_compiling():
        return make()
    known = _known.setdefault(tensor, {})
    if name not in known or not known[name][0].still(tensor):
        with torch.inference_mode(False), torch.no_grad():
            known[name] = Seen(tensor), make()
    return known[name][1]  # type: ignore[no-any-return]


def graph_of(edge_index: Tensor, num_nodes: int, *, receivers_first: bool = False) -> Graph:
    """The Graph of edges (2, E): senders, then receivers, or the other way round."""

    def make() -> Graph:
        return Graph(edge_index.flip(0) if receivers_first else edge_index.clone(), num_nodes)

    return remembered(f"graph {num_nodes} {receivers_first}", edge_index, make)
