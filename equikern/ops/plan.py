"""`equikern::plan`: check the index tensors of a graph and group its edges by one of them (CSR)."""

from __future__ import annotations

import torch
from torch import Tensor

from equikern import backends
from equikern.errors import ShapeError
from equikern.ops.engine import LIBRARY

LIBRARY.define("plan(Tensor sender, Tensor receiver, SymInt senders, SymInt receivers) -> (Tensor, Tensor)")


def _run(sender: Tensor, receiver: Tensor, senders: int, receivers: int) -> tuple[Tensor, Tensor]:
    if receiver.device.type == "cpu":
        return backends.cpu.plan(sender, receiver, senders, receivers)
    for kind, index, n in (("sender", sender, senders), ("receiver", receiver, receivers)):
        if index.numel() and not bool(((index >= 0) & (index < n)).all()):
            raise ShapeError(
                f"{kind} index out of range: the graph has {n} {kind}s, the indices reach {int(index.max())}."
            )
    ptr = receiver.new_zeros(receivers + 1)
    ptr[1:] = torch.bincount(receiver, minlength=receivers).cumsum(0)
    return ptr, torch.argsort(receiver, stable=True)


LIBRARY.impl("plan", _run, "CompositeExplicitAutograd")


@torch.library.register_fake("equikern::plan", lib=LIBRARY)
def _fake(sender: Tensor, receiver: Tensor, senders: int, receivers: int) -> tuple[Tensor, Tensor]:
    return receiver.new_empty(receivers + 1), torch.empty_like(receiver)


def plan(sender: Tensor, receiver: Tensor, senders: int, receivers: int) -> tuple[Tensor, Tensor]:
    """Edges grouped by receiver: `order[ptr[n] : ptr[n+1]]` are the edges that receiver n sums, in ascending order.

    sender, receiver (E,) int64; returns ptr (receivers + 1,), order (E,). Raises ShapeError for an index out of range.
    """
    return torch.ops.equikern.plan.default(sender, receiver, senders, receivers)  # type: ignore[no-any-return]
