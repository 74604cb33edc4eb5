"""Compiles and starts the Triton kernels of a sweep."""

from __future__ import annotations

from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from equikern.backends.gpu import launch
from equikern.backends.gpu.sweep import Sweep
from equikern.backends.triton import emit
from equikern.backends.triton.blocks import arguments, busiest, instances
from equikern.backends.triton.kernels import compiled, float_type

# Kernels that hold few values run faster with fewer registers: more of them are on a multiprocessor (measured, H200).
NARROW, NARROW_REGISTERS = 100, 168


class TritonKernels(launch.Kernels):
    """The kernels of a sweep in Triton: a program instance is a warp with a block of channels of a row."""

    def __init__(self, sweep: Sweep) -> None:
        super().__init__(sweep, parts=instances(sweep))
        self.narrow = not sweep.second and busiest(sweep) <= NARROW

    def options(self, dtype: torch.dtype) -> dict[str, int]:
        """Of the compiler."""
        capped = self.narrow and dtype != torch.float64
        return {"num_warps": 1, "maxnreg": NARROW_REGISTERS} if capped else {"num_warps": 1}

    @cached_property
    def arguments(self) -> tuple[str, ...]:
        """Names of the sweep kernel's arguments."""
        return arguments(self.sweep)

    @cached_property
    def sweep_kernel(self) -> Any:
        """Compiled on the first launch for each dtype."""
        return compiled(emit.sweep_source(self.sweep), "sweep_kernel")

    @cached_property
    def sum_kernel(self) -> Any:
        """Compiled on the first launch for each dtype."""
        return compiled(emit.sum_source(self.sweep), "sum_kernel")

    @cached_property
    def sum_instances(self) -> int:
        """Program instances of the sum kernel for a row of x."""
        return emit.sum_instances(self.sweep)

    def run(self, values: dict[str, Any], rows: int, dtype: torch.dtype) -> None:
        """Start the sweep."""
        given = [values[n] for n in self.arguments]
        options = self.options(dtype)
        self.sweep_kernel[(rows * self.parts,)](*given, T=float_type(dtype), ROWS=self.chunk, **options)

    def run_sum(self, part: Tensor, dx: Tensor, graph: tuple[Tensor, ...]) -> None:
        """Start the sum of the gradients of x."""
        self.sum_kernel[(dx.shape[0] * self.sum_instances,)](part, dx, *graph, T=float_type(dx.dtype), num_warps=1)


kernels = partial(launch.kernels, TritonKernels)
own_pass = launch.own_pass
steps = partial(launch.steps, TritonKernels)
sweep = partial(launch.sweep, TritonKernels)
