"""What is emitted for sums after a sweep: gradients of x over the edges of its row, of a table over those of a knot."""

from __future__ import annotations

from functools import cache

from equikern.backends.cuda.emit import Reals
from equikern.backends.gpu.sweep import Sweep, part_columns
from equikern.backends.gpu.units import segments
from equikern.program.program import X

SUM_THREADS = 128


@cache
def sum_source(sweep: Sweep, reals: Reals) -> str:
    """The kernel that sums the gradients of x that a sweep wrote for each edge, over the edges of a row of x."""
    at, width = part_columns(sweep)
    order = "true" if sweep.program.layout == "mul_ir" else "false"
    summed = []
    for segment in segments(sweep.program.operands[X].irreps):  # type: ignore[arg-type]
        firsts = [first for (_, number), first in at.items() if number == segment.number]
        if firsts:
            numbers = ", ".join(map(str, (segment.start, segment.mul, segment.dim, order, *firsts)))
            summed.append(f"Summed<{numbers}>")
    lines = [
        f"// {sweep.text}",
        '#include "sum.cuh"',
        "using namespace eqk;",
        f"using Segments = Concatenated<{', '.join(summed)}>;",
        f"using Argument = Parts<{reals.wide}, {reals.row}>;",
        f"EQK_KERNEL(sum_kernel, {SUM_THREADS}, Argument) {{",
        f"  sum<Segments, {width}, {sweep.program.dims[X]}, {SUM_THREADS}>(argument);",
        "}",
    ]
    return "\n".join([*lines, ""])


@cache
def rows_source(count: int, reals: Reals) -> str:
    """The kernel that sums, for each knot, what its edges give to each of its `count` rows of a table."""
    lines = [
        '#include "table.cuh"',
        "using namespace eqk;",
        f"using Argument = Rows<{reals.wide}, {reals.row}>;",
        "EQK_KERNEL(rows_kernel, WARP, Argument) {",
        f"  rows<{count}>(argument);",
        "}",
    ]
    return "\n".join([*lines, ""])
