"""`Graph`: edge indices with the plan that kernels need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from equikern.backends.bits import same
from equikern.errors import ShapeError
from equikern.ops import plan
from equikern.ops.values import Seen, by_value


class Graph:
    """Edges of a graph, bounds-checked and grouped by receiver.

    edge_index (2, E), integer: row 0 senders, row 1 receivers, in any order. num_nodes: rows of the node features;
    num_senders: rows of the senders' features where they differ (ghost atoms).
    Build one for each neighbour list and pass it to every layer; it must be built again when the edges change. On the
    CPU a graph of changed edges is refused, whoever wrote to them; on a device what changes them without PyTorch's
    knowledge (`.data`, another library's kernel) is not seen.
    Raises ShapeError for a wrong shape, a dtype that is not int32 or int64, or an index out of range.
    """

    def __init__(self, edge_index: Tensor, num_nodes: int, num_senders: int | None = None) -> None:
        if edge_index.ndim != 2 or edge_index.shape[0] != 2:
            raise ShapeError(f"edge_index has shape {tuple(edge_index.shape)}; it must be (2, E): senders, receivers.")
        if edge_index.dtype not in (torch.int32, torch.int64):
            raise ShapeError(f"edge_index is {edge_index.dtype}; it must be int32 or int64.")
        self._read: dict[str, tuple[Seen, Any]] = {}
        if not by_value(edge_index):
            self.once("same edges", lambda: True, edge_index)
        self.num_nodes = num_nodes
        self.num_senders = num_nodes if num_senders is None else num_senders
        # A copy: what is done to edge_index later must not reach a graph that was checked.
        self.edge_index = edges = edge_index.to(torch.int64, copy=True).contiguous()
        self.sender, self.receiver = edges[0], edges[1]
        self.ptr, self.order = plan(self.sender, self.receiver, self.num_senders, num_nodes)
        self._by_sender: tuple[Tensor, Tensor] | None = None
        if edges.is_cuda:
            self.by_sender  # noqa: B018  (now, so that no step waits for its checks)

    @classmethod
    def of(cls, edge_index: Tensor, num_nodes: int, graph: Graph | None) -> Graph:
        """The graph that came with a call, checked against its edges, or a new one where none did."""
        if graph is None:
            return cls(edge_index, num_nodes)
        graph.check(edge_index, num_nodes)
        return graph

    def check(self, edge_index: Tensor, num_senders: int) -> None:
        """Raise ShapeError unless the graph is that of `edge_index` for `num_senders` rows.

        Outside torch.compile edges are compared, on a device those of another tensor alone, or of a changed one.
        """
        if num_senders != self.num_senders or edge_index.shape[-1] != self.num_edges:
            raise ShapeError(
                f"the graph has {self.num_senders} nodes and {self.num_edges} edges, but x has {num_senders} rows and "
                f"edge_index {edge_index.shape[-1]} edges; build a new Graph when the edges change."
            )
        if torch.compiler.is_compiling() or edge_index is self.edge_index:
            return
        if by_value(edge_index):
            known = same(edge_index.long(), self.edge_index)
        else:
            known = self.once("same edges", lambda: torch.equal(edge_index.long(), self.edge_index), edge_index)
        if not known:
            raise ShapeError(
                "the graph was made of other edges than edge_index; build a new Graph when the edges change."
            )

    def check_species(self, species: Tensor, count: int) -> None:
        """Raise ShapeError unless the species (N,), integers, lie in 0 ... count - 1; outside torch.compile."""
        if torch.compiler.is_compiling() or not species.numel():
            return
        low, high = self.once("species", lambda: torch.stack(species.aminmax()).tolist(), species)
        if low < 0 or high >= count:
            raise ShapeError(f"species must lie in 0 ... {count - 1}; got {low} ... {high}.")

    def once(self, name: str, read: Callable[[], Any], *of: Any) -> Any:
        """read(), remembered by name for as long as `of`, tensors or plain values, are the same (`ops.values.Seen`).

        To look at values waits for a device: what a step must know of its inputs is looked at once a graph, under
        torch.compile in every step. What is read is on no autograd graph, may be used in and out of
        torch.inference_mode, and must be no view of `of`.
        """
        if torch.compiler.is_compiling():
            return read()
        seen, value = self._read.get(name, (None, None))
        if seen is None or not seen.still(*of):
            with torch.inference_mode(False), torch.no_grad():
                value = read()
            self._read[name] = Seen(*of), value
        return value

    @property
    def num_edges(self) -> int:
        """E."""
        return self.sender.shape[0]

    @property
    def index(self) -> list[Tensor]:
        """What `ops.evaluate` takes for a program with rows x[sender], z[receiver].

        The kernels of a GPU sum the senders' gradients by a plan of their own.
        """
        plans = [self.ptr, self.order, *(self.by_sender if self.sender.is_cuda else ())]
        return [self.sender, self.receiver, *plans]

    @property
    def by_sender(self) -> tuple[Tensor, Tensor]:
        """The edges grouped by sender, (ptr, order) as in `ops.plan`; made at first use."""
        if self._by_sender is None:
            self._by_sender = plan(self.receiver, self.sender, self.num_nodes, self.num_senders)
        return self._by_sender
