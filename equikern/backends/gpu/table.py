"""Programs whose weights come from rows of a table: the sweeps of the product, which form the weights as they go.

The gradient of the table itself is composed: the product's sweep writes the gradient of the weights by edge, and edges
that read the same rows are then summed in their order, so that every run gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from equikern.backends.gpu import launch
from equikern.backends.gpu.launch import Make, Table
from equikern.backends.gpu.sweep import B as FACTORS
from equikern.program import Program, untabled
from equikern.program.program import B, W

# (gradients of weights (E, W), factors (E, offsets), table, rows) -> the sum over edges and offsets, (rows, W)
Rows = Callable[[Tensor, Tensor, Table, int], Tensor]


def sweep(
    make: Make,
    sum_rows: Rows,
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
                found[W] += sum_rows(dw, factors, table, open[W])
    return list(found.values())
