"""Starts the CUDA kernels of a sweep."""

from __future__ import annotations

from functools import cache, cached_property, partial
from typing import Any

import torch
from torch import Tensor

from equikern.backends.cuda import driver, emit
from equikern.backends.cuda.emit import Reals
from equikern.backends.cuda.layout import CHUNK, WARP, Tuning, layout, tuned
from equikern.backends.cuda.sums import SUM_THREADS, rows_source, sum_source
from equikern.backends.gpu import launch, table
from equikern.backends.gpu.sweep import OPENED, OPERANDS, Sweep
from equikern.program import Program

REALS = {torch.float32: "float", torch.float64: "double"}
NARROW = {torch.float16: "Half", torch.bfloat16: "BFloat16"}  # computed in float32
ALIGNMENT = 16  # bytes that a lane reads at once, at most


def reals(dtype: torch.dtype) -> Reals:
    """The C types of operands of a dtype."""
    return Reals(NARROW[dtype], "float") if dtype in NARROW else Reals(REALS[dtype], REALS[dtype])


class CudaKernels(launch.Kernels):
    """The kernels of a sweep: a warp has a unit and a block of channels of a row."""

    def __init__(self, dtype: torch.dtype, sweep: Sweep, tuning: Tuning | None = None) -> None:
        self.reals = reals(dtype)
        size = max(dtype.itemsize, 4)
        tuning = tuning or tuned(sweep, size)
        sweep = sweep._replace(widest=tuning.widest)
        self.layout = layout(sweep, size, tuning)
        super().__init__(sweep, blocks=self.layout.all_tasks, chunk=CHUNK)

    @cached_property
    def source(self) -> str:
        """Of the sweep."""
        return emit.sweep_source(self.sweep, self.layout, self.reals, self.chunk)

    @cached_property
    def sum_source(self) -> str:
        """Of the sum of the gradients of x that the sweep writes by edge."""
        return sum_source(self.sweep, self.reals)

    def run(self, values: dict[str, Any], rows: int, dtype: torch.dtype) -> None:
        """Start the sweep. The arguments are those of `Operands` in sweep.cuh."""
        read = [aligned(values.get(name)) for name in OPERANDS.values()]
        written = [values.get(name) for name in OPENED.values()]
        index = values.get("x_index", values.get("z_index"))
        tensors = [*read, *written, index, *map(values.get, ("knot", "ptr", "order"))]
        knots = values["w_rows"] - self.sweep.table[-1] if self.sweep.table else 0
        counts = [values["edges"], values["x_rows" if "x_index" in values else "z_rows"], knots, rows]
        grid = -(-rows * self.blocks // self.layout.warps)
        driver.start(
            self.source, "sweep_kernel", (grid, 1), self.layout.warps * WARP, [*map(address, tensors), *counts]
        )

    def run_sum(self, part: Tensor, dx: Tensor, graph: tuple[Tensor, ...]) -> None:
        """Start the sum of the gradients of x. The arguments are those of `Parts` in sum.cuh."""
        tensors = [part, dx, *(graph or (None, None))]
        driver.start(self.sum_source, "sum_kernel", (dx.shape[0], 1), SUM_THREADS, [*map(address, tensors)])


def address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def aligned(tensor: Tensor | None) -> Tensor | None:
    """A tensor that begins where lanes may read several numbers at once; a view into another may not."""
    return tensor if tensor is None or tensor.data_ptr() % ALIGNMENT == 0 else tensor.clone()


@cache
def maker(dtype: torch.dtype, tuning: Tuning | None = None) -> launch.Make:
    """What makes the kernels for operands of a dtype."""
    return partial(CudaKernels, dtype, tuning=tuning)


def sweep(base: Program, operands: list[Tensor], *arguments: Any, **options: Any) -> list[Tensor]:
    """`gpu.launch.sweep` with CUDA kernels."""
    like = next(a for a in operands if a.ndim == 2)
    return launch.sweep(maker(like.dtype), base, operands, *arguments, **options)


def sum_knots(dw: Tensor, b: Tensor, sums: Tensor, ptr: Tensor, order: Tensor, u0: int) -> None:
    """Start the sums of a table's gradient for each knot (`gpu.table.SumKnots`)."""
    rows, count, columns = sums.shape
    source = rows_source(count, reals(dw.dtype))
    # The arguments are those of `Rows` in table.cuh.
    words = [*map(address, (dw, b, sums, ptr, order)), u0, columns, dw.shape[1]]
    driver.start(source, "rows_kernel", (rows, -(-columns // WARP)), WARP, words)


def table_sweep(base: Program, operands: list[Tensor], *arguments: Any, **options: Any) -> list[Tensor]:
    """`gpu.table.sweep` with CUDA kernels."""
    like = next(a for a in operands if a.ndim == 2)
    return table.sweep(maker(like.dtype), sum_knots, base, operands, *arguments, **options)
