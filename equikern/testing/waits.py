"""What would make a step wait for a device: found on the CPU, by the ops that run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._C import DispatchKey, DispatchKeySet
from torch.utils._python_dispatch import TorchDispatchMode

from equikern.ops import values

# Ops whose values, or the size of whose results, the host must know; `lift_fresh` is a tensor made of host numbers.
READS = {
    "_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "argwhere", "masked_select", "bincount",
    "_unique", "_unique2", "unique_dim", "unique_consecutive", "lift_fresh",
}  # fmt: skip
_INDEXING = ("index", "index_put", "index_put_", "_unsafe_index")


@contextmanager
def as_on_a_device() -> Iterator[None]:
    """Inside a `with` block, tensors on the CPU go the way of those on a device, whose values the host does not see."""
    before = set(values.HOST)
    values.HOST.clear()
    try:
        yield
    finally:
        values.HOST |= before


class NoWaits(TorchDispatchMode):
    """Raises AssertionError, inside a `with` block, at an op that would wait for the device if its tensors were on one.

    The block is one of `as_on_a_device`; a step that must be known from an earlier one needs that around both.
    Ops of equikern are looked into: run them under `backend("reference")`, since kernels of the CPU are no torch ops.
    `Tensor.tolist` and `numpy` of a tensor on the CPU run no op and are not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self._blocks: list[AbstractContextManager[None]] = []

    def __enter__(self) -> Any:
        self._blocks.append(as_on_a_device())
        self._blocks[-1].__enter__()
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *reason: Any) -> None:
        super().__exit__(*reason)  # type: ignore[no-untyped-call]
        self._blocks.pop().__exit__(None, None, None)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if waits(func, args):
            raise AssertionError(f"{func} would wait for a device")
        if func.namespace == "equikern":
            with self:
                return func.redispatch(DispatchKeySet(DispatchKey.CPU), *args, **kwargs)
        return func(*args, **kwargs)


def waits(func: Any, args: Any) -> bool:
    """Whether an op waits for the device of its tensors."""
    name = func._schema.name.removeprefix("aten::")
    if name in _INDEXING:
        return any(isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in args[1])
    return name in READS or str(func) == "aten.repeat_interleave.Tensor"
