"""A call of the op as sweeps: a base program is one, so is its derivative along all inputs; higher orders are sums."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from equikern.backends._channelwise import elementwise, kept
from equikern.backends._derived import base_of, expanded
from equikern.backends.gpu.exchanged import exchanged
from equikern.program import Program
from equikern.program.program import W

Run = Callable[..., list[Tensor]]  # `launch.sweep` or `table.sweep` with its kernels


def why_not(program: Program) -> str | None:
    """None where sweeps compute the program, else the reason why not."""
    if program.family not in ("product", "table"):
        return f"it has no kernel for the family {program.family!r}"
    base = base_of(program).text
    if not (kept(base) or elementwise(base) or exchanged(base)):
        return "paths mix or pair channels, are of several kinds or too many, or rows of y or w are indexed"
    if program.family == "table" and not program.dims[W]:
        return "no path reads the table"
    return None


def contract(
    runs: dict[str, Run],
    program: Program,
    operands: list[Tensor],
    index: list[Tensor],
    rows: list[int],
    open: list[int],
) -> list[Tensor]:
    """dF/da for each open slot, `rows[n]` rows each; an absent operand (one dimension, no element) stands for zero.

    `runs`: of each family. The derivative along all inputs has a sweep of its own, but for the tangent of a table, as
    derivatives of its gradient have it.
    """
    if (turned := exchanged(program.text)) is not None:
        program, places = turned
        operands, open = [operands[places.index(s)] for s in range(len(places))], [places[s] for s in open]
    run, opened, base = runs[program.family], dict(zip(open, rows, strict=True)), base_of(program)
    if not program.derived:
        return run(base, operands, index, opened)
    along_all = program.derived == (tuple(range(base.output)),) and all(slot <= base.output for slot in open)
    if along_all and (program.family != "table" or operands[base.output + 1 + W].ndim != 2):
        return run(base, operands, index, opened, second=True)
    return expanded(program, operands, opened, lambda b, read, o, fixed: run(b, read, index, o, fixed=fixed))
