"""Compiles and starts the Triton kernels of a sweep."""

from __future__ import annotations

from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from equikern.backends.gpu import launch, table
from equikern.backends.gpu.sweep import Sweep
from equikern.backends.triton import emit, sums
from equikern.backends.triton.blocks import arguments, busiest, instances
from equikern.backends.triton.kernels import Kernel, float_type
from equikern.backends.triton.table import sum_knots

# Kernels that hold few values run faster with fewer registers: more of them are on a multiprocessor (measured, H200).
NARROW, NARROW_REGISTERS = 100, 168


class TritonKernels(launch.Kernels):
    """The kernels of a sweep in Triton: a program instance is a warp with a block of channels of a row."""

    def __init__(self, sweep: Sweep) -> None:
        super().__init__(sweep, blocks=instances(sweep))
        self._sweeps: dict[torch.dtype, Kernel] = {}
        self.narrow = not sweep.second and busiest(sweep) <= NARROW and not sweep.table

    def options(self, dtype: torch.dtype) -> dict[str, int]:
        """Of the compiler."""
        capped = self.narrow and dtype != torch.float64
        return {"num_warps": 1, "maxnreg": NARROW_REGISTERS} if capped else {"num_warps": 1}

    @cached_property
    def arguments(self) -> tuple[str, ...]:
        """Names of the sweep kernel's arguments."""
        return arguments(self.sweep)

    def sweep_kernel(self, dtype: torch.dtype) -> Kernel:
        """For operands of a dtype."""
        made = self._sweeps.get(dtype)
        if made is None:
            made = Kernel(emit.sweep_source(self.sweep), "sweep_kernel", **self.options(dtype))
            self._sweeps[dtype] = made
        return made

    @cached_property
    def sum_kernel(self) -> Kernel:
        """The sum of the gradients of x."""
        return Kernel(sums.sum_source(self.sweep), "sum_kernel", num_warps=1)

    @cached_property
    def sum_instances(self) -> int:
        """Program instances of the sum kernel for a row of x."""
        return sums.sum_instances(self.sweep)

    def run(self, values: dict[str, Any], rows: int, dtype: torch.dtype) -> None:
        """Start the sweep."""
        given = [values[n] for n in self.arguments]
        self.sweep_kernel(dtype)(rows * self.blocks, given, float_type(dtype), self.chunk)

    def run_sum(self, part: Tensor, dx: Tensor, graph: tuple[Tensor, ...]) -> None:
        """Start the sum of the gradients of x."""
        self.sum_kernel(dx.shape[0] * self.sum_instances, [part, dx, *graph], float_type(dx.dtype))


kernels = partial(launch.kernels, TritonKernels)
own_pass = launch.own_pass
steps = partial(launch.steps, TritonKernels)
sweep = partial(launch.sweep, TritonKernels)
table_sweep = partial(table.sweep, TritonKernels, sum_knots)
