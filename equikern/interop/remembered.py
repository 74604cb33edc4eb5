"""What is worked out from a tensor's values, remembered for as long as the tensor lives and stays as it is.

To look at values waits for a device. What the layers of a model must know of one input is looked at once a step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from equikern.graph import Graph

Value = TypeVar("Value")
_known: Any = WeakTensorKeyDictionary()


def remembered(name: str, tensor: Tensor, make: Callable[[], Value]) -> Value:
    """make(), by name, once for each version of a tensor. What it returns must not hold the tensor.

    Tensors of torch.inference_mode do not tell whether they changed; of theirs nothing is remembered.
    """
    if torch.compiler.is_compiling() or tensor.is_inference():
        return make()
    known = _known.setdefault(tensor, {})
    if name not in known or known[name][0] != tensor._version:
        known[name] = tensor._version, make()
    return known[name][1]  # type: ignore[no-any-return]


def graph_of(edge_index: Tensor, num_nodes: int, *, receivers_first: bool = False) -> Graph:
    """The Graph of edges (2, E): senders, then receivers, or the other way round."""

    def make() -> Graph:
        return Graph(edge_index.flip(0) if receivers_first else edge_index.clone(), num_nodes)

    return remembered(f"graph {num_nodes} {receivers_first}", edge_index, make)
