"""When the host may look at the values of tensors, and whether they are still those that it saw.

To look waits for a device, so that what a step must know of its inputs is looked at once. On the CPU it waits for
nothing, and numbers tell whether they changed: what numpy, another library or `.data` wrote is seen too. A tensor on a
device is known by being the same one, of the same version.
"""

from __future__ import annotations

from typing import Any
from weakref import ref

import torch
from torch import Tensor

from equikern.backends.bits import same
from equikern.ops.engine import stored

# The devices on which the host sees what is there; `testing.as_on_a_device` takes the CPU out.
HOST = {"cpu"}


def on_host(tensor: Tensor) -> bool:
    """Whether a tensor's values may be looked at in each call: on the CPU that waits for nothing."""
    return tensor.device.type in HOST


def by_value(tensor: Tensor) -> bool:
    """Whether the numbers themselves tell if a tensor is as it was: on the CPU, where nobody traces or transforms."""
    return on_host(tensor) and stored(tensor)


class Seen:
    """Tensors, and anything that is compared by ==, as they were when they were looked at.

    On a device they are not kept alive, and those of torch.inference_mode, which do not tell whether they changed, are
    never the same.

    >>> edges = torch.tensor([0, 1])
    >>> seen = Seen(edges)
    >>> edges.data[0] = 2
    >>> seen.still(edges), seen.still(torch.tensor([0, 1]))
    (False, True)
    """

    def __init__(self, *given: Any) -> None:
        self._kept = [_keep(one) for one in given]

    def still(self, *given: Any) -> bool:
        """Whether these are the same, unchanged."""
        return len(given) == len(self._kept) and all(map(_unchanged, self._kept, given))

    def __reduce__(self) -> tuple[Any, ...]:
        return Seen, (float("nan"),)  # elsewhere nothing was looked at


class _Version:
    """A tensor that is known by being the same one."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor, self.version = ref(tensor), None if tensor.is_inference() else tensor._version

    def of(self, tensor: Tensor) -> bool:
        return self.tensor() is tensor and self.version is not None and self.version == tensor._version


def _keep(one: Any) -> Any:
    if not isinstance(one, Tensor):
        return one
    if not by_value(one):
        return _Version(one)
    return one.detach().clone(memory_format=torch.contiguous_format)


def _unchanged(kept: Any, one: Any) -> bool:
    if isinstance(kept, _Version):
        return isinstance(one, Tensor) and kept.of(one)
    if isinstance(kept, Tensor):
        return isinstance(one, Tensor) and by_value(one) and same(kept, one)
    return not isinstance(one, Tensor) and bool(kept == one)
