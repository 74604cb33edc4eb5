"""`equikern::plan`: check the index tensors of a graph and group its edges by one of them (CSR)."""

from __future__ import annotations

import torch
from torch import Tensor

from equikern import backends
from equikern.backends import cpu_rows
from equikern.errors import ShapeError
from equikern.ops.engine import LIBRARY, plain

LIBRARY.define("plan(Tensor sender, Tensor receiver, SymInt senders, SymInt receivers) -> (Tensor, Tensor)")


def _run(sender: Tensor, receiver: Tensor, senders: int, receivers: int) -> tuple[Tensor, Tensor]:
    if receiver.device.type == "cpu" and backends.cpu.available():
        return cpu_rows.plan(sender, receiver, senders, receivers)
    pairs = (("sender", sender, senders), ("receiver", receiver, receivers))
    inside = [((index >= 0) & (index < n)).all() for _, index, n in pairs]
    for (kind, index, n), fits in zip(pairs, torch.stack(inside).tolist(), strict=True):
        if not fits:
            raise ShapeError(
                f"{kind} index out of range: the graph has {n} {kind}s, the indices reach {int(index.max())}."
            )
    grouped, order = torch.sort(receiver, stable=True)
    return torch.searchsorted(grouped, torch.arange(receivers + 1, device=receiver.device)), order


LIBRARY.impl("plan", _run, "CompositeExplicitAutograd")


@torch.library.register_fake("equikern::plan", lib=LIBRARY)
def _fake(sender: Tensor, receiver: Tensor, senders: int, receivers: int) -> tuple[Tensor, Tensor]:
    return receiver.new_empty(receivers + 1), torch.empty_like(receiver)


def plan(sender: Tensor, receiver: Tensor, senders: int, receivers: int) -> tuple[Tensor, Tensor]:
    """Edges grouped by receiver: `order[ptr[n] : ptr[n+1]]` are the edges that receiver n sums, in ascending order.

    sender, receiver (E,) int64; returns ptr (receivers + 1,), order (E,). Raises ShapeError for an index out of range.
    """
    run = _run if plain((), (sender, receiver)) else torch.ops.equikern.plan.default
    return run(sender, receiver, senders, receivers)  # type: ignore[no-any-return]
