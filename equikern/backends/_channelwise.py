"""Channelwise programs: every path keeps x's channel, so that a backend may sweep each channel by itself."""

from __future__ import annotations

from functools import cache

from equikern.program import EDGE, SHARED, Path, Program, parse
from equikern.program.program import B


@cache
def channelwise(text: str) -> bool:
    """Whether every path keeps x's channel, and rows are such that one sweep gathers, multiplies and sums them.

    That is mode `uvu`, or one that is the same when y's multiplicity is 1 (`uvuv`; the others for single channels); x
    and z by any index or by edge, y by edge, w by edge, shared, or by rows of a table.
    """
    program = parse(text)
    x, y, w, z = (*program.operands[:B], program.operands[-1])
    by_rows = w.row in (EDGE, SHARED) or (program.family == "table" and w.row not in (x.row, z.row))
    if y.row != EDGE or not by_rows or SHARED in (x.row, z.row):
        return False
    return all(_keeps_channel(program, path) for path in program.paths)


def _keeps_channel(program: Program, path: Path) -> bool:
    m1, m2, m3 = program.multiplicities(path)
    single = m1 == m2 == m3 == 1 and path.mode in ("uvw", "uvv", "uuw", "uuu")
    return (m2 == 1 and path.mode in ("uvu", "uvuv")) or single
