"""Programs whose weights come from rows of a table: the sweeps of the product, which form the weights as they go.

The gradient of the table itself is composed: the product's sweep writes the gradient of the weights by edge, and edges
that read the same rows are then summed in their order, so that every run gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from equikern.backends.gpu import launch
from equikern.backends.gpu.launch import Make
from equikern.backends.gpu.operands import Table
from equikern.backends.gpu.sweep import B as FACTORS
from equikern.program import Program, untabled
from equikern.program.program import B, W

MOST_SUMS = 1 << 25  # numbers: 128 MiB in float32
BLOCK = 64  # columns that are summed together are a multiple
# Starts the sums (knots, offsets, columns) of b dw for each knot, columns from u0 on, over its edges in their order:
# (dw (E, W), b (E, offsets), sums, ptr and order of the edges of each knot, u0)
SumKnots = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, int], None]


def sweep(
    make: Make,
    sum_knots: SumKnots,
    base: Program,
    operands: list[Tensor],
    index: list[Tensor],
    open: dict[int, int],
    *,
    second: bool = False,
    fixed: bool = True,
) -> list[Tensor]:
    """The opened slots of a table program: operands x y w b g and, for `second`, tangents hx hy hw hb without hw."""
    place = base.index_kinds.index(base.rows[W])
    table = Table(base.operands[W].offsets, index[place])
    index = [*index[:place], *index[place + 1 :]]
    x, y, w, b, g, *tangents = operands
    absent = x.new_empty(0)
    hx, hy, _, hb = tangents if second else [absent] * 4
    product, last = untabled(base.text), base.output
    # slots of the table program, as a sweep of the product numbers them
    numbers = {slot: {B: FACTORS, last: B}.get(slot, slot) for slot in open if slot != W}
    found = dict.fromkeys(open, absent)
    if numbers:
        given = [x, y, w, g, hx, hy, absent, b, hb]
        opened = {numbers[slot]: open[slot] for slot in numbers}
        made = launch.sweep(make, product, given, index, opened, second=second, fixed=fixed, table=table)
        found |= dict(zip(numbers, made, strict=True))
    if W in open:
        found[W] = b.new_zeros(open[W], base.dims[W])
        # F is linear in the weights: their gradient does not read them.
        along = [x, y, absent, g, hx, hy, absent] if second else [x, y, absent, g]
        for factors, given, twice in ((b, along, second), (hb, along[:4], False)):
            moves = not twice or hx.ndim == 2 or hy.ndim == 2
            if factors.ndim == 2 and moves and base.dims[W]:
                (dw,) = launch.sweep(make, product, given, index, {W: len(factors)}, second=twice)
                found[W] += sum_rows(sum_knots, dw, factors, table, open[W])
    return list(found.values())


def sum_rows(sum_knots: SumKnots, dw: Tensor, b: Tensor, table: Table, rows: int) -> Tensor:
    """The gradient of a table (rows, W) from that of the weights by edge, dw (E, W), and factors b (E, offsets).

    The edges of a knot are summed in their order, then the sums of all knots are added, offset by offset.
    """
    width, count, wide = dw.shape[1], len(table.offsets), torch.promote_types(dw.dtype, torch.float32)
    grouped, order = torch.sort(table.knot, stable=True)
    ptr = torch.searchsorted(grouped, torch.arange(rows + 1, device=dw.device))
    result = dw.new_zeros(rows, width, dtype=wide)
    columns = min(width, max(BLOCK, MOST_SUMS // (rows * count) // BLOCK * BLOCK))
    sums = dw.new_empty(rows, count, columns, dtype=wide)
    for u0 in range(0, width, columns):
        part = result[:, u0 : u0 + columns]
        sum_knots(dw, b.contiguous(), sums, ptr, order, u0)
        for c, offset in enumerate(table.offsets):
            part[offset:] += sums[: max(rows - offset, 0), c, : part.shape[1]]
    return result.to(dw.dtype)
