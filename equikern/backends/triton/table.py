"""Weights from rows of a table: what a sweep reads and adds for them, and the sum of the table's gradient.

A row is read once a path, from the caches: a table of 300 rows and 1280 weights has 1.5 MB. A knot whose rows are not
all in the table gives NaN.
"""

from __future__ import annotations

from functools import cache

from torch import Tensor

from equikern.backends.gpu.sweep import HB, B, Sweep
from equikern.backends.triton.kernels import Kernel, float_type
from equikern.backends.triton.text import HEADER, Lines

Offsets = tuple[int, ...]
LANES = 64  # columns of an instance of the sum


def load_factors(out: Lines, sweep: Sweep) -> None:
    """The factors of edge e's rows, and where its first row, k, begins."""
    out.add(f"there = (k >= 0) & (k < w_rows - {sweep.table[-1]})", "lost = tl.where(there, 0.0, float('nan'))")
    for slot, pointer, name in ((B, "b", "factor"), (HB, "hb", "hfactor")):
        if slot in sweep.given:
            at = f"{pointer} + e * {len(sweep.table)}"
            out.add(*(f"{name}{c} = tl.load({at} + {c}).to(T) + lost" for c in range(len(sweep.table))))
    out.add(f"rows = w + tl.where(there, k, 0) * {sweep.program.dims[2]} + u")


def load_rows(out: Lines, table: Offsets, width: int, column: int, mask: str, again: bool = False) -> None:
    """The rows' weights of a path. `again`: they were read before, and not kept (another modifier, so not merged)."""
    options = (f", {mask}, other=0.0" if mask else "") + (', cache_modifier=".ca"' if again else "")
    for c, offset in enumerate(table):
        out.add(f"row{c} = tl.load(rows + {offset * width + column}{options}).to(T)")


def weight(table: Offsets, name: str) -> str:
    """A path's weight, or its tangent `hw`, without its scale."""
    factor = "factor" if name == "w" else "hfactor"
    return f"({' + '.join(f'{factor}{c} * row{c}' for c in range(len(table)))})"


def add_gradient(out: Lines, table: Offsets, scale: str) -> None:
    """Add a path's part, f times its scale, to the gradients of the factors."""
    if "f" not in out.set:
        return
    out.add(*[f"f = f{scale}"] * bool(scale))
    for c in range(len(table)):
        out.accumulate(f"db{c}", f"f * row{c}" if f"db{c}" in out.set else f"f * row{c} + lost")


# --- the gradient of a table


@cache
def rows_source(count: int) -> str:
    """The kernel that sums, for each knot, what its edges give to each of its `count` rows: columns from u0 on."""
    out = Lines()
    out.add(
        "pid = tl.program_id(0).to(tl.int64)",
        "blocks = tl.cdiv(columns, LANES)",
        "k = pid // blocks",
        "u = (pid % blocks) * LANES + tl.arange(0, LANES)",
        "inside = (u < columns) & (u0 + u < width)",
    )
    out.add(*(f"sum{c} = tl.zeros([LANES], T)" for c in range(count)))
    out.add("first = tl.load(ptr + k)", "last = tl.load(ptr + k + 1)")
    out.add("e = tl.load(order + first, mask=first < last, other=0)", "for t in range(first, last):")
    out.depth += 1
    out.add("after = tl.load(order + t + 1, mask=t + 1 < last, other=0)")
    out.add("f = tl.load(dw + e * width + u0 + u, mask=inside, other=0.0).to(T)")
    out.add(*(f"sum{c} += f * tl.load(b + e * {count} + {c}).to(T)" for c in range(count)))
    out.add("e = after")
    out.depth -= 1
    out.add(*(f"tl.store(sums + (k * {count} + {c}) * columns + u, sum{c}, mask=inside)" for c in range(count)))
    head = "def rows_kernel(dw, b, sums, ptr, order, u0, columns, width, T: tl.constexpr, LANES: tl.constexpr):"
    return "\n".join([HEADER + '@triton.jit(do_not_specialize=["u0", "columns", "width"])', head, *out.lines]) + "\n"


@cache
def _rows_kernel(count: int) -> Kernel:
    return Kernel(rows_source(count), "rows_kernel", num_warps=1)


def sum_knots(dw: Tensor, b: Tensor, sums: Tensor, ptr: Tensor, order: Tensor, u0: int) -> None:
    """Start the sums of a table's gradient for each knot (`gpu.table.SumKnots`)."""
    rows, count, columns = sums.shape
    arguments: list[Tensor | int] = [dw, b, sums, ptr, order, u0, columns, dw.shape[1]]
    _rows_kernel(count)(rows * -(-columns // LANES), arguments, float_type(dw.dtype), LANES)
