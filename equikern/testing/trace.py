"""Look at what runs: calls of the op, and graphs of energy and forces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode


class Calls(TorchDispatchMode):
    """Records, inside a `with` block, the program text and the open slots of every call of `equikern::contract`."""

    def __init__(self) -> None:
        super().__init__()
        self.contracts: list[tuple[str, list[int]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.equikern.contract.default:
            self.contracts.append((args[0], list(args[5])))
        return func(*args, **(kwargs or {}))

    @property
    def opened(self) -> list[list[int]]:
        """The open slots of each call, in order."""
        return [open for _, open in self.contracts]


def force_graph(energy: Callable[..., Tensor], arguments: Sequence[Tensor], position: int = 0) -> torch.fx.GraphModule:
    """A graph of (energy, -d energy / d arguments[position]) to compile, then differentiate once for training.

    `torch.compile` refuses double backward; a graph traced by `make_fx` holds the forces as ordinary ops instead. Index
    tensors must be among the arguments, and sizes that may differ later must differ here: the tracer takes equal sizes
    for one symbol. It leaves `aten.detach` on saved outputs, which cuts the second derivative of tanh, sigmoid, exp and
    others without a word: `strip_detach` removes them.
    """

    def both(*args: Tensor) -> tuple[Tensor, Tensor]:
        value = energy(*args)
        (gradient,) = torch.autograd.grad(value, args[position], create_graph=True)
        return value, -gradient

    leaves = [a.detach().requires_grad_(a.is_floating_point()) for a in arguments]
    return strip_detach(make_fx(both, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*leaves))


def strip_detach(graph: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """Replace each `aten.detach` of a graph by its input, in place."""
    for node in list(graph.graph.nodes):
        if node.target is torch.ops.aten.detach.default:
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
    graph.recompile()
    return graph
