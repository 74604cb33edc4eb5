"""A call of the op as sweeps: a base program is one, so is its derivative along all inputs; higher orders are sums."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from equikern.backends._derived import base_of, expanded
from equikern.program import Program

Run = Callable[..., list[Tensor]]  # `launch.sweep` with its kernels


def contract(
    run: Run,
    program: Program,
    operands: list[Tensor],
    index: list[Tensor],
    rows: list[int],
    open: list[int],
    second: bool = True,
) -> list[Tensor]:
    """dF/da for each open slot, `rows[n]` rows each; an absent operand (one dimension, no element) stands for zero.

    `second`: the derivative along all inputs has a sweep of its own.
    """
    opened, base = dict(zip(open, rows, strict=True)), base_of(program)
    if not program.derived:
        return run(base, operands, index, opened)
    along_all = program.derived == (tuple(range(base.output)),) and all(slot <= base.output for slot in open)
    if along_all and second:
        return run(base, operands, index, opened, second=True)
    return expanded(program, operands, opened, lambda b, read, o, fixed: run(b, read, index, o, fixed=fixed))
